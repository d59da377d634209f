"""Chat messages: checks roles and contents, and joins text parts to the one string that templates expect."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from localllm.contract.errors import InvalidRequestError
from localllm.openai.wire_model import FieldError, UnsupportedValueError, WireModel, describe

MAX_MESSAGES: Final = 2048
MAX_PARTS: Final = 64
_TEXT_KINDS: Final = frozenset({"text", "refusal"})  # each names the key that its text stands under
_MEDIA_KINDS: Final = frozenset(
    {
        "audio",
        "audio_url",
        "file",
        "image",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
        "input_video",
        "video_url",
    }
)
_TOOL_ROLES: Final = frozenset({"tool", "function"})


def join_parts(content: object) -> object:
    """Return the text of a message's content: a string as it is, a list of parts joined.

    One loop instead of a model for each part: a body of 256 KB can hold ten thousand of them.
    """
    if isinstance(content, str) or content is None:
        return content
    if not isinstance(content, list):
        raise FieldError(f"must be a string or a list of parts, not {describe(content)}")
    if len(content) > MAX_PARTS:
        raise FieldError(f"must have at most {MAX_PARTS} parts, not {len(content)}")
    return "".join([_text_of(part, index) for index, part in enumerate(content)])


def _text_of(part: object, index: int) -> str:
    if not isinstance(part, dict):
        raise FieldError(f"must be an object with type and text, not {describe(part)}", at=f"[{index}]")
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _TEXT_KINDS:
        if isinstance(kind, str) and kind in _MEDIA_KINDS:
            message = f"A content part of type {kind} can't be read here: this server takes text only."
            raise UnsupportedValueError(message, at=f"[{index}]")
        raise FieldError(f'must be "text", not {describe(kind)}', at=f"[{index}].type")
    text = part.get(kind)
    if not isinstance(text, str):
        raise FieldError(f"must be a string, not {describe(text)}", at=f"[{index}].{kind}")
    return text


def _refuse_tool_role(role: object) -> object:
    if isinstance(role, str) and role in _TOOL_ROLES:
        raise UnsupportedValueError(f"Messages of role {role} can't be used here: this server can't call tools.")
    return role


def _refuse_calls(calls: object) -> object:
    if calls not in (None, [], {}, "", False):
        raise UnsupportedValueError("Messages with tool calls can't be used here: this server can't call tools.")
    return calls


NoCalls = Annotated[Any, BeforeValidator(_refuse_calls)]


class Message(WireModel):
    """One message. Fields that say nothing to a text model (``name``, ``refusal``, …) are ignored."""

    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_refuse_tool_role)]
    content: Annotated[str | None, BeforeValidator(join_parts, str | list[dict[str, Any]] | None)] = None
    tool_calls: NoCalls = None
    function_call: NoCalls = None


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


def to_plain_messages(messages: list[Message]) -> tuple[dict[str, str], ...]:
    """Return the messages as role and text. Raises ``InvalidRequestError`` where needed content is missing."""
    return tuple({"role": message.role, "content": _text(index, message)} for index, message in enumerate(messages))


def _text(index: int, message: Message) -> str:
    if message.content is not None:
        return message.content
    if message.role == "assistant":
        return ""
    param = f"messages[{index}].content"
    raise InvalidRequestError(f"{param} is required for a message of role {message.role}.", param=param)
