"""Checks a decoded JSON body against a request model and words every fault as one typed error with its ``param``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError

from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError

MAX_REPORTED_FAULTS: Final = 8
_MAX_SHOWN_CHARS: Final = 40
_MAX_NAME_CHARS: Final = 64
_KEY: Final = "[key]"  # what pydantic puts behind a key that is itself at fault


class WireModel(BaseModel):
    """Base of all request models: strict types (no numbers from strings, no bool as int), unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=WireModel)


def validate(model: type[Model], body: Mapping[str, Any]) -> Model:
    """Return ``body`` as a checked ``model``; a field that is null counts as absent.

    Of a field that is given under several of its names the first counts; what stands under the others must be valid,
    too. Raises ``InvalidRequestError`` or ``UnsupportedFeatureError``; with several faults the message lists them (at
    most eight) and ``param`` names the first. Time is bounded by the models' own limits: lists fail at their first
    fault or their first entry too many.
    """
    present = {name: value for name, value in body.items() if value is not None}
    try:
        checked = model.model_validate(present)
        for names in names_of_fields(model).values():
            given = [name for name in names if name in present] if len(names) > 1 else names
            for number in range(1, len(given)):
                model.model_validate({name: value for name, value in present.items() if name not in given[:number]})
    except ValidationError as error:
        raise _as_request_error(error) from None
    return checked


@cache
def names_of_fields(model: type[BaseModel]) -> Mapping[str, tuple[str, ...]]:
    """Return, by the attribute of each field of a request model, the names that it is taken under, first ones first."""
    found: dict[str, tuple[str, ...]] = {}
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        found[name] = tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (name,)
    return found


class FieldError(ValueError):
    """What a validator raises where pydantic has no words: ``requirement`` reads "must be …, not …".

    ``at`` is the path inside the field, where the validator looked deeper than the field itself.
    """

    def __init__(self, requirement: str, *, at: str = "") -> None:
        super().__init__(requirement)
        self.at = at

    def within(self, place: str) -> FieldError:
        """Return the same error for a value that stands at ``place`` of a field: paths cost time, errors are rare."""
        return type(self)(str(self), at=place + self.at)


class UnsupportedValueError(FieldError):
    """A value that is fine in itself, but asks for what is not there; a whole sentence."""


def describe(value: object) -> str:
    """Return a short, printable description of a JSON value for an error message."""
    if isinstance(value, str):
        shown = value if len(value) <= _MAX_SHOWN_CHARS else value[:_MAX_SHOWN_CHARS] + "…"
        quoted = json.dumps(shown, ensure_ascii=False)
        return quoted.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "an object"
    # Python refuses to print integers of thousands of digits, which other decoders than ours let through.
    return "a huge number" if isinstance(value, int) and abs(value) >= 2**64 else json.dumps(value)


def check_text(value: str, at: str = "") -> str:
    """Return the text, which pydantic did not look at. Raises :class:`FieldError` for half of a surrogate pair."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise FieldError(f"must be valid Unicode text, not {describe(value)}", at=at) from None
    return value


def says_nothing(value: object) -> bool:
    """Return whether a value is one of those that clients write where there is nothing to say."""
    return value is None or value is False or value in ("", [], {})


def _as_request_error(error: ValidationError) -> InvalidRequestError | UnsupportedFeatureError:
    details = error.errors(include_url=False)
    for detail in details:
        raised = _raised(detail)
        if isinstance(raised, UnsupportedValueError):
            return UnsupportedFeatureError(str(raised), param=_param(detail))
    shown = [{"param": _param(detail), "message": _sentence(detail)} for detail in details[:MAX_REPORTED_FAULTS]]
    message = " ".join(fault["message"] for fault in shown)
    if len(details) > len(shown):
        message += f" ({len(details) - len(shown)} more faults are not listed.)"
    return InvalidRequestError(message, param=shown[0]["param"], detail={"errors": shown} if len(shown) > 1 else None)


def _raised(detail: Mapping[str, Any]) -> FieldError | None:
    """Return the exception that one of our validators raised, if that is what happened."""
    raised = detail.get("ctx", {}).get("error")
    return raised if isinstance(raised, FieldError) else None


def _param(detail: Mapping[str, Any]) -> str:
    """Return the path as OpenAI writes it (``messages[0].content``); union tags, which stand in ``<>``, are dropped."""
    path = ""
    for segment in _places(detail):
        if isinstance(segment, int):
            path += f"[{segment}]"
        elif not segment.startswith("<"):
            path += f".{_shortened(segment)}" if path else _shortened(segment)
    raised = _raised(detail)
    return path if raised is None else path + raised.at


def _places(detail: Mapping[str, Any]) -> tuple[int | str, ...]:
    """Return the way to the fault; that of a key leads to the object which has it."""
    loc: tuple[int | str, ...] = detail["loc"]
    return loc[:-2] if loc[-1] == _KEY else loc


def _shortened(name: str) -> str:
    """Return a name as it may be shown: a caller's own keys are as long as it likes."""
    return name if len(name) <= _MAX_NAME_CHARS else name[:_MAX_SHOWN_CHARS] + "…"


def _sentence(detail: Mapping[str, Any]) -> str:
    param, kind, value = _param(detail), detail["type"], detail["input"]
    raised = _raised(detail)
    if raised is not None:
        return f"{param} {raised}."
    if kind == "missing":
        return f"{param} is required."
    if kind in _TOO_SHORT:
        return f"{param} must not be empty."
    if kind in _TOO_LONG and detail["loc"][-1] == _KEY:
        return f"{param} must have keys of at most {detail['ctx']['max_length']} characters, but one has {len(value)}."
    if kind in _TOO_LONG:
        return f"{param} must have at most {detail['ctx']['max_length']} {_TOO_LONG[kind]}, but it has {len(value)}."
    return f"{param} {_requirement(detail)}, but it is {describe(value)}."


def _requirement(detail: Mapping[str, Any]) -> str:
    kind, last = detail["type"], detail["loc"][-1]
    if kind in _TYPES:
        # The tag of a union says what all its members are together: "<a string or a list of strings>".
        tagged = isinstance(last, str) and last.startswith("<")
        return f"must be {last.strip('<>') if tagged else _TYPES[kind]}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        bound = detail["ctx"][name]
        return f"must be {words} {f'{bound:g}' if isinstance(bound, float) else bound}"
    if kind == "literal_error":
        return f"must be {detail['ctx']['expected']}"
    return f"is not accepted ({detail['msg']})"


_TYPES: Final[Mapping[str, str]] = {
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "string_unicode": "valid Unicode text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
}
_TOO_SHORT: Final = frozenset({"too_short", "string_too_short"})  # every lower bound is 1
_TOO_LONG: Final[Mapping[str, str]] = {"too_long": "entries", "string_too_long": "characters"}
_BOUNDS: Final[Mapping[str, tuple[str, str]]] = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
