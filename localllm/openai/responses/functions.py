"""``tools`` and ``tool_choice`` of ``/v1/responses``: functions, and the tools that only OpenAI's own servers have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from localllm.openai.tools import MAX_TOOLS, Choice, PlainTool, read_tool_choice, read_tools
from localllm.openai.wire_model import FieldError, describe

_FUNCTION_KEYS: Final = ("name", "description", "parameters", "strict")
_PLAIN_CHOICES: Final = ("none", "auto", "required")
_MAX_TYPE_CHARS: Final = 64
_MAX_TYPES_TOLD: Final = 8


class Functions(NamedTuple):
    """``left_out`` are the types of tools that are no functions, each once."""

    tools: tuple[PlainTool, ...] = ()
    left_out: tuple[str, ...] = ()


class ToolWish(NamedTuple):
    """``choice`` None: what was named is no function. ``shown`` is as the response repeats it."""

    choice: Choice | None
    shown: Any


def read_functions(value: object) -> Functions:
    """Return the functions of a list of tools, in either endpoint's form; other tools are left out."""
    if not isinstance(value, list):
        raise FieldError(f"must be a list, not {describe(value)}")
    if len(value) > MAX_TOOLS:
        raise FieldError(f"must have at most {MAX_TOOLS} entries, not {len(value)}")
    tools: dict[str, PlainTool] = {}
    left_out: dict[str, None] = {}
    for index, tool in enumerate(value):
        kind = _kind_of(tool, f"[{index}]")
        if kind != "function":
            left_out[kind] = None
            continue
        read = _read_function(tool, f"[{index}]")
        name = read["function"]["name"]
        if tools.setdefault(name, read) != read:
            message = f"must not be the name of another function too, as {describe(name)} is"
            raise FieldError(message, at=f"[{index}].name")
    return Functions(tuple(tools.values()), tuple(left_out)[:_MAX_TYPES_TOLD])


def read_wish(value: object) -> ToolWish:
    """Return which function may or must be called."""
    if value in _PLAIN_CHOICES:
        return ToolWish(read_tool_choice(value), value)
    if not isinstance(value, dict):
        raise FieldError(f'must be "none", "auto", "required" or an object with a type, not {describe(value)}')
    kind = value.get("type")
    if kind == "allowed_tools":
        return _read_allowed(value)
    if kind == "function" or not isinstance(kind, str) or not 1 <= len(kind) <= _MAX_TYPE_CHARS:
        choice = read_tool_choice(value)
        return ToolWish(choice, {"type": "function", "name": choice.name})
    return ToolWish(None, "auto")


def shown_tools(tools: Sequence[PlainTool]) -> list[dict[str, Any]]:
    """Return the functions as a response repeats them."""
    return [{"type": "function", "strict": False, "description": None, **tool["function"]} for tool in tools]


def _kind_of(tool: object, at: str) -> str:
    if not isinstance(tool, dict):
        raise FieldError(f"must be an object with a type, not {describe(tool)}", at=at)
    kind = tool.get("type")
    if not isinstance(kind, str) or not 1 <= len(kind) <= _MAX_TYPE_CHARS:
        raise FieldError(f'must be "function" or the type of another tool, not {describe(kind)}', at=f"{at}.type")
    return kind


def _read_function(tool: Mapping[str, Any], at: str) -> PlainTool:
    nested = tool.get("function")
    function = nested if isinstance(nested, dict) else {key: tool.get(key) for key in _FUNCTION_KEYS}
    inner = "[0].function"
    try:
        return read_tools([{"type": "function", "function": function}])[0]
    except FieldError as error:
        below = f"{at}.function" if function is nested else at
        raise type(error)(str(error), at=below + error.at.removeprefix(inner)) from None


def _read_allowed(value: Mapping[str, Any]) -> ToolWish:
    tools = value.get("tools")
    inner = value.get("allowed_tools")
    if tools is None and isinstance(inner, dict):  # as the chat endpoint has it
        return _read_allowed({**inner, "type": "allowed_tools"})
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise FieldError(f"must be a list of 1 to {MAX_TOOLS} tools, not {describe(tools)}", at=".tools")
    kinds = [_kind_of(tool, f".tools[{index}]") for index, tool in enumerate(tools)]
    functions = [tool for tool, kind in zip(tools, kinds, strict=True) if kind == "function"]
    if tools and not functions:
        return ToolWish(Choice("none"), "none")
    choice = read_tool_choice({**value, "tools": functions})
    allowed = [{"type": "function", "name": name} for name in choice.allowed or ()]
    return ToolWish(choice, {"type": "allowed_tools", "mode": choice.mode, "tools": allowed})
