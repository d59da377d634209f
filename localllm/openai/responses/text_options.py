"""``text``: what an answer must match, in the words of ``/v1/responses``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from localllm.contract.generation import Constraint
from localllm.openai.structured import read_response_format
from localllm.openai.wire_model import FieldError, describe

_VERBOSITIES: Final = ("low", "medium", "high")
_SCHEMA_KEYS: Final = ("name", "schema", "strict")
_INNER: Final = ".json_schema"
_MAX_NAME_CHARS: Final = 64


class TextOptions(NamedTuple):
    """``format`` is as the response repeats it."""

    format: Mapping[str, Any]
    constraint: Constraint | None = None
    verbosity: str = "medium"


PLAIN_TEXT: Final = TextOptions({"type": "text"})


def read_text_options(value: object) -> TextOptions:
    """Return what ``text`` says. How many words an answer has (``verbosity``) is left to the model."""
    if not isinstance(value, dict):
        raise FieldError(f"must be an object with format, not {describe(value)}")
    verbosity = value.get("verbosity")
    if verbosity is not None and verbosity not in _VERBOSITIES:
        raise FieldError(f'must be "low", "medium" or "high", not {describe(verbosity)}', at=".verbosity")
    form = value.get("format")
    if form is None:
        return PLAIN_TEXT._replace(verbosity=verbosity or "medium")
    try:
        read = _read_format(form)
    except FieldError as error:
        raise error.within(".format") from None
    return read._replace(verbosity=verbosity or "medium")


def _read_format(form: object) -> TextOptions:
    if not isinstance(form, dict):
        raise FieldError(f"must be an object with a type, not {describe(form)}")
    match form.get("type"):
        case "text":
            return PLAIN_TEXT
        case "json_object":
            return TextOptions({"type": "json_object"}, read_response_format({"type": "json_object"}))
        case "json_schema":
            return _read_schema(form)
        case other:
            raise FieldError(f'must be "text", "json_object" or "json_schema", not {describe(other)}', at=".type")


def _read_schema(form: dict[str, Any]) -> TextOptions:
    """Read what the chat endpoint has one level deeper."""
    inner = form["json_schema"] if isinstance(form.get("json_schema"), dict) else form
    given = {key: inner[key] for key in _SCHEMA_KEYS if inner.get(key) is not None}
    try:
        constraint = read_response_format({"type": "json_schema", "json_schema": given})
    except FieldError as error:
        raise type(error)(str(error), at=error.at.removeprefix(_INNER)) from None
    name = given.get("name", "")
    if len(name) > _MAX_NAME_CHARS:
        raise FieldError(f"must have at most {_MAX_NAME_CHARS} characters, not {len(name)}", at=".name")
    shown = {"type": "json_schema", "name": name, "schema": given["schema"], "strict": bool(given.get("strict"))}
    description = inner.get("description")
    if isinstance(description, str):
        shown["description"] = description
    return TextOptions(shown, constraint)
