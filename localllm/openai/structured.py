"""What an answer must match: ``response_format`` and its many relatives, read as one :class:`Constraint`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import orjson
from pydantic import PlainValidator

from localllm.contract.errors import InvalidRequestError
from localllm.contract.generation import Constraint
from localllm.openai.wire_model import FieldError, UnsupportedValueError, WireModel, check_text, describe

MAX_SCHEMA_BYTES: Final = 128 * 1024
MAX_SCHEMA_DEPTH: Final = 64  # as the edge decoder's, which does not see into schemas that are sent as strings
MAX_GRAMMAR_BYTES: Final = 64 * 1024
MAX_REGEX_BYTES: Final = 16 * 1024
MAX_LISTED_ANSWERS: Final = 1024
MAX_LISTED_CHARS: Final = 4096


def read_response_format(value: object) -> Constraint | None:
    """Return the constraint of OpenAI's ``response_format``, with llama-server's ``schema`` beside ``json_object``.

    Raises ``FieldError``.
    """
    form = _read_object(value, "")
    if not form:
        return None
    match form.get("type"):
        case "text":
            return None
        case "json_object":
            schema = form.get("schema")
            return Constraint("json_object") if schema is None else _read_lenient_schema(schema, ".schema")
        case "json_schema":
            return _read_json_schema_format(form.get("json_schema"))
        case "structural_tag":
            return Constraint("structural_tag", to_json(form, ""))
        case other:
            known = '"text", "json_object", "json_schema" or "structural_tag"'
            raise FieldError(f"must be {known}, not {describe(other)}", at=".type")


def _read_json_schema_format(value: object) -> Constraint:
    at = ".json_schema"
    if value is None:
        raise FieldError("is required for the type json_schema", at=at)
    wrapper = _read_object(value, at)
    name, strict, schema = wrapper.get("name"), wrapper.get("strict"), wrapper.get("schema")
    if name is not None and not isinstance(name, str):
        raise FieldError(f"must be a string, not {describe(name)}", at=f"{at}.name")
    if strict is not None and not isinstance(strict, bool):
        raise FieldError(f"must be true or false, not {describe(strict)}", at=f"{at}.strict")
    if schema is None:
        raise FieldError("is required", at=f"{at}.schema")
    return Constraint("json_schema", to_json(_read_object(schema, f"{at}.schema"), f"{at}.schema"), bool(strict))


def read_structured_outputs(value: object) -> Constraint:
    """Return the one constraint in vLLM's ``structured_outputs``.

    Raises ``FieldError``, and ``UnsupportedValueError`` for options that would change what schemas mean.
    """
    options = _read_object(value, "")
    for name in ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"):
        if options.get(name) not in (None, False, ""):
            message = f"structured_outputs.{name} is not supported here: schemas mean what they say. Leave it out."
            raise UnsupportedValueError(message, at=f".{name}")
    given = [name for name in _KINDS if options.get(name) not in (None, False)]
    if len(given) != 1:
        found = " and ".join(given) if given else "none of them"
        raise FieldError(f"must hold exactly one of {', '.join(_KINDS)}, not {found}")
    return _KINDS[given[0]](options[given[0]], f".{given[0]}")


def read_schema(value: object, at: str = "") -> Constraint:
    """Return the constraint of a JSON schema: an object, or the JSON text of one."""
    return Constraint("json_schema", to_json(_read_object_or_text(value, at), at))


def _read_lenient_schema(value: object, at: str = "") -> Constraint:
    """Read a schema as llama-server does, which leaves out what it doesn't know and takes {} for "any object"."""
    schema = _read_object_or_text(value, at)
    return Constraint("json_schema", to_json(schema, at), strict=False) if schema else Constraint("json_object")


def _read_regex(value: object, at: str = "") -> Constraint:
    return Constraint("regex", _read_text(value, at, MAX_REGEX_BYTES))


def _read_choice(value: object, at: str = "") -> Constraint:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_LISTED_ANSWERS:
        raise FieldError(f"must be a list of 1 to {MAX_LISTED_ANSWERS} strings, not {describe(value)}", at=at)
    for index, text in enumerate(value):
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_LISTED_CHARS:
            message = f"must be a string of 1 to {MAX_LISTED_CHARS} characters, not {describe(text)}"
            raise FieldError(message, at=f"{at}[{index}]")
    return Constraint("choice", to_json(list(dict.fromkeys(value)), at))


def _read_any_grammar(value: object, at: str = "") -> Constraint:
    """Read a grammar as vLLM does: Lark's form, or GBNF, which defines its rules by "::="."""
    source = _read_text(value, at, MAX_GRAMMAR_BYTES)
    return Constraint("gbnf" if "::=" in source else "lark", source)


def _read_gbnf(value: object) -> Constraint | None:
    return None if value == "" else Constraint("gbnf", _read_text(value, "", MAX_GRAMMAR_BYTES))


def _read_structural_tag(value: object, at: str = "") -> Constraint:
    return Constraint("structural_tag", to_json(_read_object_or_text(value, at), at))


def _read_json_object(value: object, at: str = "") -> Constraint:
    if value is not True:
        raise FieldError(f"must be true or false, not {describe(value)}", at=at)
    return Constraint("json_object")


_KINDS: Final[Mapping[str, Callable[[object, str], Constraint]]] = {
    "json": read_schema,
    "regex": _read_regex,
    "choice": _read_choice,
    "grammar": _read_any_grammar,
    "structural_tag": _read_structural_tag,
    "json_object": _read_json_object,
}


def _read_object(value: object, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FieldError(f"must be an object, not {describe(value)}", at=at)
    return value


def _read_object_or_text(value: object, at: str) -> dict[str, Any]:
    if not isinstance(value, str):
        return _read_object(value, at)
    try:
        return _read_object(orjson.loads(_read_text(value, at, MAX_SCHEMA_BYTES)), at)
    except orjson.JSONDecodeError as error:
        raise FieldError(
            f"must be an object, or the JSON text of one, but it is not valid JSON: {error}", at=at
        ) from None


def _read_text(value: object, at: str, max_bytes: int) -> str:
    if not isinstance(value, str) or not value:
        raise FieldError(f"must be a string that is not empty, not {describe(value)}", at=at)
    n_bytes = len(check_text(value, at).encode())
    if n_bytes > max_bytes:
        raise FieldError(f"must have at most {max_bytes} bytes, not {n_bytes}", at=at)
    return value


def to_json(value: object, at: str) -> str:
    """Return a schema's JSON text, in the order of its keys, which is the order that answers keep.

    Raises ``FieldError``.
    """
    if _is_deeper_than(value, MAX_SCHEMA_DEPTH):
        raise FieldError(f"must be nested at most {MAX_SCHEMA_DEPTH} levels deep", at=at)
    try:
        source = orjson.dumps(value)
    except orjson.JSONEncodeError as error:  # lone surrogates, integers beyond 64 bits
        raise FieldError(f"must hold only what JSON can express ({error})", at=at) from None
    if len(source) > MAX_SCHEMA_BYTES:
        raise FieldError(f"must have at most {MAX_SCHEMA_BYTES} bytes of JSON, not {len(source)}", at=at)
    return source.decode()


def _is_deeper_than(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        inner = [child for node in level for child in _children(node)]
        level = [child for child in inner if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(node: object) -> list[object]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


_FIELDS: Final = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "grammar",
)


class StructuredFields(WireModel):
    """The fields that say what an answer must match: at most one of them.

    ``response_format`` is OpenAI's, ``structured_outputs`` vLLM's (``guided_*`` are its older names), ``json_schema``
    and ``grammar`` (GBNF, "" for none) are llama-server's.
    """

    response_format: Annotated[Constraint | None, PlainValidator(read_response_format, dict[str, Any])] = None
    structured_outputs: Annotated[Constraint | None, PlainValidator(read_structured_outputs, dict[str, Any])] = None
    guided_json: Annotated[Constraint | None, PlainValidator(read_schema, dict[str, Any] | str)] = None
    guided_regex: Annotated[Constraint | None, PlainValidator(_read_regex, str)] = None
    guided_choice: Annotated[Constraint | None, PlainValidator(_read_choice, list[str])] = None
    guided_grammar: Annotated[Constraint | None, PlainValidator(_read_any_grammar, str)] = None
    json_schema: Annotated[Constraint | None, PlainValidator(_read_lenient_schema, dict[str, Any] | str)] = None
    grammar: Annotated[Constraint | None, PlainValidator(_read_gbnf, str)] = None

    def constraint(self) -> Constraint | None:
        """Return what answers must match. Raises ``InvalidRequestError`` where two fields say it."""
        given = {name: found for name in _FIELDS if (found := getattr(self, name)) is not None}
        if len(given) > 1:
            first, second, *_ = given
            message = f"{first} and {second} both say what the answer must match: send one of them."
            raise InvalidRequestError(message, param=second)
        return next((replace(found, param=name) for name, found in given.items()), None)
