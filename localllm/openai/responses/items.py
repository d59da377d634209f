"""Input items: reads all kinds that clients send, leniently, into the form in which they are kept and listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from localllm.openai.calls import read_arguments, read_call_id
from localllm.openai.responses.ids import MAX_ID_CHARS
from localllm.openai.responses.parts import read_parts
from localllm.openai.wire_model import FieldError, check_text, describe, says_nothing

MAX_ITEMS: Final = 2048
MAX_OUTPUT_PARTS: Final = 256
_ROLES: Final = frozenset({"user", "system", "developer", "assistant"})
_LEFT_OUT: Final = frozenset(
    {
        "additional_tools",
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "compaction",
        "compaction_trigger",
        "computer_call",
        "computer_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
"""What other services' tools leave in a history. Our models neither made it nor could read it."""

Item = Mapping[str, Any]
"""An item in OpenAI's shape; where it is kept it has an ``id``."""


class InputItems(NamedTuple):
    """``left_out`` are the types of items that could not be read by any model of this server, each once."""

    items: tuple[Item, ...]
    left_out: tuple[str, ...] = ()


def read_input(value: object) -> InputItems:
    """Return the items of ``input``: one message of the user's where it is a string, none for an empty list."""
    if value == []:
        return InputItems(())
    if isinstance(value, str):
        return InputItems((_message("user", value, ""),))
    if not isinstance(value, list):
        raise FieldError(f"must be a string or a list of items, not {describe(value)}")
    return read_items(value)


def read_items(value: object) -> InputItems:
    """Return the items of a list. Ids that they bring are dropped, except those of references."""
    if not isinstance(value, list):
        raise FieldError(f"must be a list of items, not {describe(value)}")
    if not 1 <= len(value) <= MAX_ITEMS:
        raise FieldError(f"must have 1 to {MAX_ITEMS} items, not {len(value)}")
    items: list[Item] = []
    left_out: dict[str, None] = {}
    for index, item in enumerate(value):
        try:
            kind = _kind_of(item)
            if kind in _LEFT_OUT:
                left_out[kind] = None
            else:
                items.append(_READERS[kind](item))
        except FieldError as error:
            raise error.within(f"[{index}]") from None
    return InputItems(tuple(items), tuple(left_out))


def is_reference(item: Item) -> bool:
    """Return whether an item only names another one."""
    return bool(item["type"] == "item_reference")


def with_ids(items: Sequence[Item], make_id: Callable[[str, int], str]) -> tuple[Item, ...]:
    """Return the items with ids; ``make_id`` gets each one's type and index."""
    return tuple({**item, "id": make_id(item["type"], index)} for index, item in enumerate(items))


def _kind_of(item: object) -> str:
    """Return an item's type, which may be left out of messages and of references."""
    if not isinstance(item, dict):
        raise FieldError(f"must be an object, not {describe(item)}")
    kind = item.get("type")
    if kind is None:
        if item.get("role") is not None:
            return "message"
        if isinstance(item.get("id"), str):
            return "item_reference"
        raise FieldError("is required", at=".type")
    if not isinstance(kind, str) or (kind not in _READERS and kind not in _LEFT_OUT):
        known = ", ".join(f'"{name}"' for name in _READERS)
        raise FieldError(f"must be one of {known}, not {describe(kind)}", at=".type")
    return kind


def _read_message(item: dict[str, Any]) -> Item:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise FieldError(f'must be "user", "assistant", "system" or "developer", not {describe(role)}', at=".role")
    return _message(role, item.get("content"), ".content")


def _message(role: str, content: object, at: str) -> Item:
    parts = read_parts(content, at, is_answer=role == "assistant")
    return {"type": "message", "role": role, "status": "completed", "content": parts}


def _read_call(item: dict[str, Any]) -> Item:
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise FieldError(f"must be the name of a function, not {describe(name)}", at=".name")
    arguments = read_arguments(item.get("arguments"), ".arguments")
    return {
        "type": "function_call",
        "call_id": _call_id(item),
        "name": check_text(name, ".name"),
        "arguments": arguments,
        "status": "completed",
    }


def _read_output(item: dict[str, Any]) -> Item:
    output = item.get("output")
    if isinstance(output, list):
        read: Any = read_parts(output, ".output", is_answer=False, max_parts=MAX_OUTPUT_PARTS)
    elif isinstance(output, str):
        read = check_text(output, ".output")
    else:
        raise FieldError(f"must be a string or a list of parts, not {describe(output)}", at=".output")
    return {"type": "function_call_output", "call_id": _call_id(item), "output": read, "status": "completed"}


def _call_id(item: dict[str, Any]) -> str:
    try:
        call_id = read_call_id(item.get("call_id"))
    except FieldError as error:
        raise error.within(".call_id") from None
    if not call_id:
        raise FieldError("is required", at=".call_id")
    return call_id


def _read_reasoning(item: dict[str, Any]) -> Item:
    """Read a thought. What is encrypted is another service's, and nobody here can read it."""
    content = _thought_parts(item.get("content"), "reasoning_text", ".content")
    summary = _thought_parts(item.get("summary"), "summary_text", ".summary")
    return {"type": "reasoning", "summary": summary, "content": content, "status": "completed"}


def _thought_parts(value: object, kind: str, at: str) -> list[dict[str, Any]]:
    if says_nothing(value):
        return []
    if not isinstance(value, list) or len(value) > MAX_OUTPUT_PARTS:
        raise FieldError(f"must be a list of at most {MAX_OUTPUT_PARTS} parts, not {describe(value)}", at=at)
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(value):
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise FieldError(f"must be an object with a text, not {describe(part)}", at=f"{at}[{index}]")
        parts.append({"type": kind, "text": check_text(text, f"{at}[{index}].text")})
    return parts


def _read_reference(item: dict[str, Any]) -> Item:
    identity = item.get("id")
    if not isinstance(identity, str) or not 1 <= len(identity) <= MAX_ID_CHARS:
        raise FieldError(f"must be the id of an item, not {describe(identity)}", at=".id")
    return {"type": "item_reference", "id": check_text(identity, ".id")}


_READERS: Final[Mapping[str, Callable[[dict[str, Any]], Item]]] = {
    "message": _read_message,
    "function_call": _read_call,
    "function_call_output": _read_output,
    "reasoning": _read_reasoning,
    "item_reference": _read_reference,
}
