"""Chat messages: checks roles, contents, calls and thoughts, and words them all in OpenAI's current form."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import Field, PlainValidator

from localllm.contract.errors import InvalidRequestError
from localllm.openai.calls import CallLinks, PlainCall, read_call_id, read_calls, read_function_call
from localllm.openai.wire_model import FieldError, UnsupportedValueError, WireModel, check_text, describe, says_nothing

MAX_MESSAGES: Final = 2048
MAX_PARTS: Final = 64
MAX_NAME_CHARS: Final = 256
_TEXT_KINDS: Final = frozenset({"text", "refusal"})  # each names the key that its text stands under
_THOUGHT_KINDS: Final = frozenset({"thinking", "reasoning"})
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
_MAY_BE_EMPTY: Final = frozenset({"assistant", "tool", "function"})


class Content(NamedTuple):
    """A message's text, and what of it was marked as a thought."""

    text: str
    thought: str = ""


def read_content(content: object) -> Content:
    """Return the content of a message: a string as it is, a list of parts joined.

    One loop instead of a model for each part: a body of 256 KB can hold ten thousand of them.
    Raises ``FieldError``, and ``UnsupportedValueError`` for a part that is no text.
    """
    if isinstance(content, str):
        return Content(check_text(content))
    if not isinstance(content, list):
        raise FieldError(f"must be a string or a list of parts, not {describe(content)}")
    if len(content) > MAX_PARTS:
        raise FieldError(f"must have at most {MAX_PARTS} parts, not {len(content)}")
    texts: list[str] = []
    thoughts: list[str] = []
    for index, part in enumerate(content):
        _read_part(part, f"[{index}]", texts, thoughts)
    return Content("".join(texts), "".join(thoughts))


def _read_part(part: object, at: str, texts: list[str], thoughts: list[str]) -> None:
    if not isinstance(part, dict):
        raise FieldError(f"must be an object with type and text, not {describe(part)}", at=at)
    kind = part.get("type")
    if isinstance(kind, str) and kind in _TEXT_KINDS:
        texts.append(_text_of(part, kind, at))
    elif isinstance(kind, str) and kind in _THOUGHT_KINDS:
        thoughts.append(_thought_of(part, kind, at))
    elif isinstance(kind, str) and kind in _MEDIA_KINDS:
        message = f"A content part of type {kind} can't be read here: this server takes text only."
        raise UnsupportedValueError(message, at=at)
    else:
        raise FieldError(f'must be "text", not {describe(kind)}', at=f"{at}.type")


def _text_of(part: dict[str, Any], key: str, at: str) -> str:
    text = part.get(key)
    if not isinstance(text, str):
        raise FieldError(f"must be a string, not {describe(text)}", at=f"{at}.{key}")
    return check_text(text, f"{at}.{key}")


def _thought_of(part: dict[str, Any], kind: str, at: str) -> str:
    """Return the text of a thought, which stands under the part's kind or under "text", some wrap it in parts again."""
    key = kind if part.get(kind) is not None else "text"
    inner = part.get(key)
    if not isinstance(inner, list):
        return _text_of(part, key, at)
    pieces = [piece if isinstance(piece, dict) else {} for piece in inner]
    return "".join([_text_of(piece, "text", f"{at}.{key}[{index}]") for index, piece in enumerate(pieces)])


def read_thought(value: object) -> str:
    """Return the text of a message's thought: a string or parts; what is empty has none."""
    if says_nothing(value):
        return ""
    content = read_content(value)
    return content.thought + content.text


def _read_optional(value: object) -> Content | None:
    return None if value is None else read_content(value)


Thought = Annotated[str, PlainValidator(read_thought, str | list[dict[str, Any]])]


class Message(WireModel):
    """One message. Fields that say nothing to a text model (``refusal``, ``audio``, …) are ignored.

    ``reasoning_content``, ``reasoning`` and ``thinking`` are three names for the same; the first that has some counts.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Content | None, PlainValidator(_read_optional, str | list[dict[str, Any]] | None)] = None
    name: str | None = Field(None, max_length=MAX_NAME_CHARS)
    tool_calls: Annotated[tuple[PlainCall, ...], PlainValidator(read_calls, list[dict[str, Any]])] = ()
    function_call: Annotated[tuple[PlainCall, ...], PlainValidator(read_function_call, dict[str, Any])] = ()
    tool_call_id: Annotated[str, PlainValidator(read_call_id, str)] = ""
    reasoning_content: Thought = ""
    reasoning: Thought = ""
    thinking: Thought = ""

    @property
    def thought(self) -> str:
        """What the assistant thought before it wrote the message."""
        named = self.reasoning_content or self.reasoning or self.thinking
        return named or ("" if self.content is None else self.content.thought)

    @property
    def can_be_continued(self) -> bool:
        """Whether an answer can go on where this message ends."""
        has_text = self.content is not None and bool(self.content.text)
        return self.role == "assistant" and has_text and not (self.tool_calls or self.function_call)


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


def to_plain_messages(messages: list[Message]) -> tuple[dict[str, Any], ...]:
    """Return the messages as the engine takes them: plain objects that hold only what is there.

    ``content`` is always a string; ``tool_calls`` of the assistant all have ids, and ``arguments`` as they were sent;
    a result has the role "tool", ``tool_call_id`` and, where known, ``name``; thoughts are ``reasoning_content``. The
    older ``function_call`` and role "function" become these. Raises ``InvalidRequestError`` for what is missing or
    stands in a message of another role.
    """
    links = CallLinks()
    return tuple(_plain(index, message, links) for index, message in enumerate(messages))


def _plain(index: int, message: Message, links: CallLinks) -> dict[str, Any]:
    content = _text(index, message)
    if message.role != "assistant":
        _refuse_calls(index, message)
    if message.role in ("tool", "function"):
        answer = links.answer(index, message.tool_call_id, message.name or "")
        return {"role": "tool", "content": content, **answer}
    plain: dict[str, Any] = {"role": message.role, "content": content}
    if message.name:
        plain["name"] = message.name
    if message.role != "assistant":
        return plain
    if message.thought:
        plain["reasoning_content"] = message.thought
    if message.tool_calls and message.function_call:
        at = f"messages[{index}].function_call"
        raise InvalidRequestError(f"{at} is the older form of tool_calls: send one of them.", param=at)
    calls = message.tool_calls or message.function_call
    if calls:
        plain["tool_calls"] = links.number(index, calls)
    return plain


def _text(index: int, message: Message) -> str:
    param = f"messages[{index}].content"
    if message.content is None:
        if message.role in _MAY_BE_EMPTY:
            return ""
        raise InvalidRequestError(f"{param} is required for a message of role {message.role}.", param=param)
    if message.content.thought and message.role != "assistant":
        told = f"{param} has a thought in it, which only a message of role assistant may have, not {message.role}."
        raise InvalidRequestError(told, param=param)
    return message.content.text


def _refuse_calls(index: int, message: Message) -> None:
    for name in ("tool_calls", "function_call"):
        if getattr(message, name):
            param = f"messages[{index}].{name}"
            raise InvalidRequestError(f"{param} is only for messages of role assistant.", param=param)
