"""Puts right the calls and results of a conversation's earlier turns, for templates that are strict about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from .messages import Message
from .tool_messages import ToolCall, read_call, result_as_text

_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def uniform(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return the conversation in OpenAI's present form: ``tool_calls`` with ids, results of role ``tool`` with theirs.

    What came before it, ``function_call`` and the role ``function``, is read as well. A result without an id goes with
    the first call of its name, or of any name, that has none yet.
    """
    reader = _HistoryReader()
    return [reader.read(message) for message in messages]


class _HistoryReader:
    """Goes through one conversation."""

    def __init__(self) -> None:
        self._n_ids = 0
        self._unanswered: list[ToolCall] = []

    def read(self, message: Mapping[str, Any]) -> Message:
        """Return a copy of the next message."""
        copy = {key: value for key, value in message.items() if key not in ("tool_calls", "function_call")}
        if copy["role"] in ("tool", "function"):
            return self._result(copy)
        if copy["role"] == "assistant":
            calls = [self._call(call) for call in _calls_of(message)]
            if calls:
                copy["tool_calls"] = calls
        return copy

    def _call(self, call: Mapping[str, Any]) -> Message:
        made = read_call(call)
        made = ToolCall(made.name, made.arguments, made.id or self._new_id())
        self._unanswered.append(made)
        return {"id": made.id, "type": "function", "function": {"name": made.name, "arguments": made.arguments}}

    def _result(self, message: Message) -> Message:
        call_id, name = (str(message.get(key) or "") for key in ("tool_call_id", "name"))
        call = next((call for call in self._unanswered if _fits(call, call_id, name)), None)
        if call is not None:
            self._unanswered.remove(call)
            call_id, name = call.id, name or call.name
        named = {"name": name} if name else {}
        return {**message, "role": "tool", "tool_call_id": call_id or self._new_id(), **named}

    def _new_id(self) -> str:
        self._n_ids += 1
        return f"call{self._n_ids:05}"


def _calls_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    if isinstance(calls, Sequence) and calls and not isinstance(calls, str):
        return [call for call in calls if isinstance(call, Mapping)]
    function = message.get("function_call")
    return [{"function": function}] if isinstance(function, Mapping) else []


def _fits(call: ToolCall, call_id: str, name: str) -> bool:
    return call.id == call_id if call_id else name in ("", call.name)


def mended(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with ids of nine letters and digits, and with results of no call as text of the user.

    Mistral's templates refuse other ids. The same id always becomes the same one.
    """
    known: set[str] = set()
    out: list[Message] = []
    for message in messages:
        calls = message.get("tool_calls", ())
        known.update(call["id"] for call in calls)
        if calls:
            out.append({**message, "tool_calls": [{**call, "id": _short_id(call["id"])} for call in calls]})
        elif message["role"] != "tool":
            out.append(message)
        elif message["tool_call_id"] in known:
            out.append({**message, "tool_call_id": _short_id(message["tool_call_id"])})
        else:
            out.append(result_as_text(message))
    return out


def _short_id(call_id: str) -> str:
    if _SHORT_ID.fullmatch(call_id):
        return call_id
    number = int.from_bytes(blake2b(call_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    return "".join(_DIGITS[number // 62**place % 62] for place in range(9))


def one_call_each(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with at most one call in a message, and its result next to it."""
    out: list[Message] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        if len(message.get("tool_calls", ())) < 2:
            out.append(message)
            continue
        n_results = next((n for n, later in enumerate(messages[at:]) if later["role"] != "tool"), len(messages) - at)
        out += _parted(message, messages[at : at + n_results])
        at += n_results
    return out


def _parted(message: Message, results: Sequence[Message]) -> Iterator[Message]:
    left = list(results)
    for index, call in enumerate(message["tool_calls"]):
        head = message if index == 0 else {"role": message["role"], "content": ""}
        yield {**head, "tool_calls": [call]}
        own = [result for result in left if result["tool_call_id"] == call["id"]]
        left = [result for result in left if result["tool_call_id"] != call["id"]]
        yield from own
    yield from left


def as_thoughts(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with what was said beside a call and a thought put into the thought.

    The template of gpt-oss refuses the two beside a call.
    """
    return [_as_thought(message) if message.get("tool_calls") else message for message in messages]


def _as_thought(message: Message) -> Message:
    thought, content = message.get("thinking"), message["content"]
    if not thought or not content:
        return message
    both = f"{thought}\n\n{content}"
    return {**message, "content": "", "reasoning_content": both, "reasoning": both, "thinking": both}
