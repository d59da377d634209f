"""Turns plain TOML values into the typed fields of section dataclasses, and back."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from localllm.config.errors import suggestion

Section = TypeVar("Section")

Report = Callable[[str, str], None]
"""Called with a key's dotted path and the sentence that says what is wrong with it."""

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string", Path: "a path"}


class Text(str):
    """A value that came as text (environment, command line, ``${env:NAME}``) and is read by its key's type."""

    __slots__ = ()


class UnfitError(Exception):
    """A value is not of its key's type. The message says what is expected, and shows the value."""


def section_fields(section: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Return a section's fields by name, each with its resolved type.

    Raises ``TypeError`` for what can't be a section.
    """
    if not dataclasses.is_dataclass(section):
        message = f"{section!r} is not a dataclass"
        raise TypeError(message)
    try:
        hints = get_type_hints(section)
    except NameError as error:
        message = f"the types of {section.__qualname__} can't be resolved: {error}"
        raise TypeError(message) from error
    fields = {field.name: (field, hints[field.name]) for field in dataclasses.fields(section) if field.init}
    for name, (field, _) in fields.items():
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            message = f"{section.__qualname__}.{name} has no default: declare it with localllm.setting(default, help)"
            raise TypeError(message)
    return fields


def read_section(
    section: type[Section], table: Mapping[str, Any], path: str, *, base: Path, report: Report
) -> Section | None:
    """Return an instance of ``section`` filled from ``table``, or None after each fault was reported.

    ``path`` is the section's dotted name, ``base`` the folder that relative paths count from.
    """
    fields = section_fields(section)
    values: dict[str, Any] = {}
    sound = True
    for key, value in table.items():
        where = f"{path}.{key}" if path else key
        if key not in fields:
            known = [f"{path}.{name}" if path else name for name in fields]
            report(where, "unknown key" + suggestion(where, known))
            sound = False
            continue
        field, kind = fields[key]
        try:
            values[key] = fit(value, kind, base)
            _check_bounds(values[key], field)
        except UnfitError as error:
            secret = field.metadata.get("secret", False)
            report(where, f"must be {describe_type(kind)} (its value is not shown)" if secret else str(error))
            sound = False
    if not sound:
        return None
    defaults = {name: field.default for name, (field, _) in fields.items() if isinstance(field.default, Path)}
    resolved = {name: base / default for name, default in defaults.items() if name not in values}
    try:
        return section(**values, **resolved)
    except ValueError as error:
        report(path, str(error))
        return None


def fit(value: Any, kind: Any, base: Path) -> Any:  # noqa: ANN401
    """Return ``value`` as ``kind``; raises :class:`UnfitError`. No silent conversions but integer to float."""
    if kind is Any:
        return value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _fit_union(value, kind, base)
    if origin is Literal:
        return _fit_choice(value, get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(_fit_choice(value, tuple(member.value for member in kind)))
    if origin in (list, tuple):
        items = _split_list(value) if isinstance(value, Text) else value
        if not isinstance(items, list):
            raise _unfit(value, kind)
        return origin(fit(item, get_args(kind)[0], base) for item in items)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _unfit(value, kind)
        return {key: fit(item, get_args(kind)[1], base) for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _fit_table(value, kind, base)
    return _fit_scalar(value, kind, base)


def _fit_table(value: Any, kind: type[Section], base: Path) -> Section:  # noqa: ANN401
    """Return a table inside of a value as the dataclass that describes it, as a section is."""
    if not isinstance(value, Mapping):
        raise _unfit(value, kind)
    faults: list[str] = []

    def report(key: str, fault: str) -> None:
        faults.append(f"{key}: {fault}" if key else fault)

    found = read_section(kind, value, "", base=base, report=report)
    if found is None:
        raise UnfitError("; ".join(faults))
    return found


def _fit_union(value: Any, kind: Any, base: Path) -> Any:  # noqa: ANN401
    members = get_args(kind)
    if types.NoneType in members and (value is None or (isinstance(value, Text) and not value)):
        return None
    # In the order of declaration, and of several that fit the one that keeps the value as it is.
    fits = []
    if isinstance(value, Text):  # any text is a string: try what is narrower first
        members = tuple(sorted(members, key=lambda member: member in (str, Path)))
    for member in members:
        if member is types.NoneType:
            continue
        try:
            fits.append(fit(value, member, base))
        except UnfitError:
            continue
    if not fits:
        raise _unfit(value, kind)
    return next((candidate for candidate in fits if type(candidate) is type(value)), fits[0])


def _fit_choice(value: Any, choices: tuple[Any, ...]) -> Any:  # noqa: ANN401
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
        if isinstance(value, Text) and str(choice).lower() == value.strip().lower():  # LLAMA_LOG_LEVEL=INFO
            return choice
    names = ", ".join(str(choice) for choice in choices)
    message = f"must be one of {names}, not {_show(value)}"
    raise UnfitError(message)


def _fit_scalar(value: Any, kind: Any, base: Path) -> Any:  # noqa: ANN401
    if isinstance(value, Text) and kind in (bool, int, float):
        value = _parse_text(value, kind)
    if kind is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise _unfit(value, kind) from None
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        message = f"must be a finite number, not {value}"
        raise UnfitError(message)
    if kind is Path and isinstance(value, (str, Path)):
        if not str(value) or "\0" in str(value):
            raise _unfit(value, kind)
        try:
            return base / Path(value).expanduser()
        except RuntimeError as error:  # "~somebody" without a home directory
            raise UnfitError(str(error)) from None
    if kind is str and isinstance(value, str):
        return str(value)
    if kind in _NAMES and type(value) is kind:
        return value
    raise _unfit(value, kind)


def _parse_text(value: Text, kind: Any) -> Any:  # noqa: ANN401
    text = value.strip().lower()
    if kind is bool:
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        raise _unfit(value, kind)
    try:
        return int(text) if kind is int else float(text)
    except ValueError:
        raise _unfit(value, kind) from None


def _split_list(value: Text) -> Any:  # noqa: ANN401
    """Read "a,b" or a TOML array."""
    text = value.strip()
    if text.startswith("["):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError) as error:  # too deep, or numbers of too many digits
            message = f"is not a list: {error}"
            raise UnfitError(message) from None
    return [Text(item.strip()) for item in text.split(",")] if text else []


def _check_bounds(value: Any, field: dataclasses.Field[Any]) -> None:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    minimum, maximum = field.metadata.get("minimum"), field.metadata.get("maximum")
    if minimum is not None and value < minimum:
        message = f"must be at least {minimum}, not {_show(value)}"
        raise UnfitError(message)
    if maximum is not None and value > maximum:
        message = f"must be at most {maximum}, not {_show(value)}"
        raise UnfitError(message)


def describe_type(kind: Any) -> str:  # noqa: ANN401
    """Return what a key takes, in words: "an integer", "a list of strings", "one of text, json"."""
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(member) for member in members if member is not types.NoneType)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in members)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(str(member.value) for member in kind)
    if origin in (list, tuple):
        return f"a list of {_plural(members[0])}"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(kind):
        return "a table"
    return _NAMES.get(kind, str(kind))


def _plural(kind: Any) -> str:  # noqa: ANN401
    """Return what a list takes, in words."""
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_plural(member) for member in get_args(kind))
    words = describe_type(kind).split(" ", 1)[-1]
    return f"lists{words.removeprefix('list')}" if words.startswith("list ") else f"{words}s"


def _unfit(value: Any, kind: Any) -> UnfitError:  # noqa: ANN401
    return UnfitError(f"must be {describe_type(kind)}, not {_show(value)}")


def _show(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, str):
        text = repr(str(value))
    elif isinstance(value, int) and value.bit_length() > 256:
        text = "a huge integer"
    else:
        text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def to_plain(value: Any, *, keep_none: bool = False) -> Any:  # noqa: ANN401
    """Return a section, or a value of one, as plain TOML and JSON values.

    Keys that are None are left out, for TOML has no null; ``keep_none`` keeps them for JSON.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = {name: to_plain(item, keep_none=keep_none) for name, item in value.items()}
        return {name: item for name, item in items.items() if keep_none or item is not None}
    if isinstance(value, (list, tuple)):
        return [to_plain(item, keep_none=keep_none) for item in value]
    if isinstance(value, Enum):
        return to_plain(value.value)
    return str(value) if isinstance(value, (Path, str)) else value
