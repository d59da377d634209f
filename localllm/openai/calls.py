"""Calls and their results in a conversation's history: read leniently, for models and clients do write them badly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from localllm.openai.wire_model import FieldError, UnsupportedValueError, check_text, describe, says_nothing

MAX_CALLS: Final = 128
_HUGE: Final = 2**63

PlainCall = dict[str, Any]
"""``{"id", "type": "function", "function": {"name", "arguments"}}``, all strings; the id is "" where there is none."""


def read_calls(value: object) -> tuple[PlainCall, ...]:
    """Return the calls of ``tool_calls``; what is empty has none.

    Raises ``FieldError``, and ``UnsupportedValueError`` for what is no call of a function.
    """
    if says_nothing(value):
        return ()
    if not isinstance(value, list):
        raise FieldError(f"must be a list of calls, not {describe(value)}")
    if len(value) > MAX_CALLS:
        raise FieldError(f"must have at most {MAX_CALLS} calls, not {len(value)}")
    calls: list[PlainCall] = []
    for call in value:
        try:
            calls.append(_read_call(call))
        except FieldError as error:
            raise error.within(f"[{len(calls)}]") from None
    return tuple(calls)


def read_function_call(value: object) -> tuple[PlainCall, ...]:
    """Return the call of the older ``function_call``, which has no id. Raises ``FieldError``."""
    if says_nothing(value):
        return ()
    return (_plain("", value),)


def read_call_id(value: object) -> str:
    """Return an id as text: some clients count their calls by numbers. "" stands for none. Raises ``FieldError``."""
    if value is None:
        return ""
    if isinstance(value, str):
        return check_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _HUGE:
        return str(value)
    raise FieldError(f"must be a string, not {describe(value)}")


def _read_call(call: object) -> PlainCall:
    if not isinstance(call, dict):
        raise FieldError(f"must be an object with id, type and function, not {describe(call)}")
    kind = call.get("type")
    if kind is not None and kind != "function":
        if isinstance(kind, str):
            message = f"A call of type {describe(kind)} can't be read here: models call functions only."
            raise UnsupportedValueError(message, at=".type")
        raise FieldError(f'must be "function", not {describe(kind)}', at=".type")
    try:
        call_id = read_call_id(call.get("id"))
    except FieldError as error:
        raise error.within(".id") from None
    try:
        return _plain(call_id, call.get("function"))
    except FieldError as error:
        raise error.within(".function") from None


def _plain(call_id: str, function: object) -> PlainCall:
    if not isinstance(function, dict):
        raise FieldError(f"must be an object with name and arguments, not {describe(function)}")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str):
        raise FieldError(f"must be a string, not {describe(name)}", at=".name")
    check_text(name, ".name")
    read = read_arguments(arguments, ".arguments")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": read}}


def read_arguments(arguments: object, at: str) -> str:
    """Return arguments as text: strings as they are; what was sent as an object, or not at all, as JSON.

    Raises ``FieldError``.
    """
    if isinstance(arguments, str):
        return check_text(arguments, at)
    if arguments is None:
        return "{}"
    if not isinstance(arguments, dict):
        raise FieldError(f"must be a string of JSON, not {describe(arguments)}", at=at)
    try:
        return orjson.dumps(arguments).decode()
    except orjson.JSONEncodeError as error:
        raise FieldError(f"must hold only what JSON can express ({error})", at=at) from None


class CallLinks:
    """Follows a conversation: makes up ids that are missing, always the same ones, and finds out what results answer.

    A result without an id answers, of the last message with calls, the first call of its function that has no result
    yet, or the first of any function where it names none that was called.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # of the functions called, by the calls' ids
        self._unanswered: dict[str, None] = {}

    def number(self, message: int, calls: Sequence[PlainCall]) -> list[PlainCall]:
        """Return the calls of a message (``message`` is its index), each with an id."""
        made = [call if call["id"] else {**call, "id": f"call_{message}_{index}"} for index, call in enumerate(calls)]
        self._unanswered = {}
        for call in made:
            call_id = call["id"]
            self._names[call_id] = call["function"]["name"]
            self._unanswered[call_id] = None
        return made

    def answer(self, message: int, call_id: str, name: str) -> dict[str, str]:
        """Return ``tool_call_id`` of a result, and ``name`` of its function where that is known."""
        if not call_id:
            own = (made for made in self._unanswered if self._names[made] == name)
            call_id = next(own, None) or next(iter(self._unanswered), f"call_{message}")
        self._unanswered.pop(call_id, None)
        name = name or self._names.get(call_id, "")
        return {"tool_call_id": call_id} | ({"name": name} if name else {})
