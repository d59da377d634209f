"""The parts of a message's content, or of a function's result: text in its several names, and what is refused."""

from __future__ import annotations

from typing import Any, Final

from localllm.openai.wire_model import FieldError, UnsupportedValueError, check_text, describe

MAX_PARTS: Final = 256
_TEXT_KEYS: Final = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
}
_MEDIA: Final = frozenset(
    {"input_image", "input_file", "input_audio", "input_video", "image_url", "computer_screenshot", "audio"}
)

Part = dict[str, Any]


def read_parts(content: object, at: str, *, is_answer: bool, max_parts: int = MAX_PARTS) -> list[Part]:
    """Return the parts of a content, which may be a string; ``is_answer`` says that a model wrote it."""
    if isinstance(content, str):
        return [_text_part(check_text(content, at), is_answer=is_answer)]
    if content is None and is_answer:
        return []
    if not isinstance(content, list):
        raise FieldError(f"must be a string or a list of parts, not {describe(content)}", at=at)
    if len(content) > max_parts:
        raise FieldError(f"must have at most {max_parts} parts, not {len(content)}", at=at)
    return [_read_part(part, f"{at}[{index}]", is_answer=is_answer) for index, part in enumerate(content)]


def text_of(parts: list[Part] | str) -> str:
    """Return the text of parts that :func:`read_parts` returned."""
    return parts if isinstance(parts, str) else "".join(part.get("text") or part.get("refusal", "") for part in parts)


def _read_part(part: object, at: str, *, is_answer: bool) -> Part:
    if not isinstance(part, dict):
        raise FieldError(f"must be an object with type and text, not {describe(part)}", at=at)
    kind = part.get("type")
    if isinstance(kind, str) and kind in _MEDIA:
        message = f"A content part of type {kind} can't be read here: this server takes text only."
        raise UnsupportedValueError(message, at=at)
    if not isinstance(kind, str) or kind not in _TEXT_KEYS:
        raise FieldError(f'must be "input_text", "output_text" or "refusal", not {describe(kind)}', at=f"{at}.type")
    key = _TEXT_KEYS[kind]
    text = part.get(key)
    if not isinstance(text, str):
        raise FieldError(f"must be a string, not {describe(text)}", at=f"{at}.{key}")
    check_text(text, f"{at}.{key}")
    if kind == "refusal" and is_answer:
        return {"type": "refusal", "refusal": text}
    return _text_part(text, is_answer=is_answer)


def _text_part(text: str, *, is_answer: bool) -> Part:
    if is_answer:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}
