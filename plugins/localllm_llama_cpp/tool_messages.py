"""Tools, calls and their results as text, as a model of some family knows them: for templates that leave them out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from localllm import CallFormat

_PLAIN = CallFormat("json", separator="\n")
CLOSING = {"(": ")", "{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: the function's name, its arguments and the call's id."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


def write_calls(calls: CallFormat, made: Sequence[ToolCall], *, bodies: Sequence[str] | None = None) -> str:
    """Return the calls as the format has them. ``bodies``, where given, are what stands inside of each."""
    bodies = bodies or [_body(calls, call) for call in made]
    written = [calls.call_open + body + calls.call_close for body in bodies]
    return calls.section_open + calls.separator.join(written) + calls.section_close


def describe_tools(calls: CallFormat, tools: Sequence[Mapping[str, Any]]) -> str:
    """Return what a system message must say where the template doesn't show the tools (OpenAI's tool objects)."""
    example = write_calls(calls, [ToolCall("NAME", {"ARGUMENT": "VALUE"}, "0")])
    functions = "\n".join(_json(tool.get("function", tool)) for tool in tools)
    return (
        "You can call functions. To call one, answer with its name and its arguments exactly like this:\n\n"
        f"{example}\n\nThese are the functions, with the JSON schemas of their arguments:\n\n{functions}"
    )


def prepare_tool_messages(
    messages: Sequence[Mapping[str, Any]],
    calls: CallFormat | None,
    *,
    shows_calls: bool,
    shows_results: bool,
    arguments_as_text: bool,
) -> list[dict[str, Any]]:
    """Return copies of OpenAI's messages in which the template finds calls and results in the form that it shows.

    Arguments that are no JSON object, as models do write them, become one that holds their text.
    """
    prepared = []
    for message in messages:
        copy = dict(message)
        made = [read_call(call) for call in copy.pop("tool_calls", None) or ()]
        if made and shows_calls:
            copy["tool_calls"] = [_shown(call, as_text=arguments_as_text) for call in made]
        elif made:
            written = write_calls(calls or _PLAIN, made)
            copy["content"] = "\n\n".join(text for text in (copy.get("content"), written) if text)
        if copy.get("role") == "tool" and not shows_results:
            copy = result_as_text(copy)
        prepared.append(copy)
    return prepared


def result_as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a call as a user's message."""
    return {"role": "user", "content": f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"}


def read_call(call: Mapping[str, Any]) -> ToolCall:
    """Return a call of the history (OpenAI's object), whatever was sent for it."""
    function = call.get("function")
    function = function if isinstance(function, Mapping) else {}
    return ToolCall(
        str(function.get("name") or ""), read_arguments(function.get("arguments")), str(call.get("id") or "")
    )


def read_arguments(arguments: object) -> Mapping[str, Any]:
    """Return the arguments of a call in the history as an object, whatever was sent for them."""
    value = arguments
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            value = arguments
    if value is None:
        return {}
    return value if isinstance(value, Mapping) else {"malformed_arguments": value}


def _shown(call: ToolCall, *, as_text: bool) -> dict[str, Any]:
    arguments = _json(call.arguments) if as_text else call.arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _body(calls: CallFormat, call: ToolCall) -> str:
    arguments = _json(call.arguments)
    if calls.style == "json":
        if not calls.name_key:
            return "{" + f"{_json(call.name)}: {arguments}" + "}"
        call_id = f", {_json(calls.id_key)}: {_json(call.id)}" if calls.id_key and call.id else ""
        pairs = f"{_json(calls.name_key)}: {_json(call.name)}, {_json(calls.arguments_key)}: {arguments}"
        return "{" + pairs + call_id + "}"
    if calls.style == "tagged_json":
        between = calls.name_end + call.id if calls.name_end else ""
        return call.name + between + calls.name_close + arguments
    if calls.style == "tagged_values":
        pairs = "".join(_tagged_pair(calls, key, value) for key, value in call.arguments.items())
        return call.name + calls.name_close + pairs
    bracket = calls.name_close or "("
    pairs = ", ".join(
        f"{key}{calls.key_close or '='}{write_literal(calls, value)}" for key, value in call.arguments.items()
    )
    return call.name + bracket + pairs + CLOSING[bracket.strip()[-1]]


def _tagged_pair(calls: CallFormat, key: str, value: object) -> str:
    is_string = isinstance(value, str)
    key_close = calls.string_key_close if is_string and calls.string_key_close else calls.key_close
    text = f"{calls.string_open}{value}{calls.string_close}" if is_string else _json(value)
    return calls.key_open + key + key_close + text + calls.value_close


def write_literal(calls: CallFormat, value: object) -> str:
    """Write a value as Python does, or with the format's own quotes."""
    if not calls.string_open:
        return repr(value)
    if isinstance(value, str):
        return calls.string_open + value + calls.string_close
    if isinstance(value, Mapping):
        pairs = (f"{key}{calls.key_close}{write_literal(calls, item)}" for key, item in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(write_literal(calls, item) for item in value) + "]"
    return _json(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
