"""Compares what a server answers with what a manual prints: the same keys, and values of the same kinds, throughout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"

ANY = object()
"""Stands for a value of any kind in what is printed."""


def kind(value: Any) -> str:
    """Return the JSON type of a value; integers and other numbers are one."""
    names = {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null", dict: "object"}
    return names.get(type(value), "array")


def differences(printed: Any, answered: Any, path: str = "") -> Iterator[str]:
    """Yield what the answer lacks or has of another kind, and ``+path`` for each key that is not printed.

    Of a printed list the first entry stands for all of them, and there must be some.
    """
    if printed is ANY:
        return
    if kind(printed) != kind(answered):
        yield f"{path or '/'}: {kind(printed)} is printed, and {kind(answered)} answered"
    elif isinstance(printed, Mapping):
        for name, value in printed.items():
            if name in answered:
                yield from differences(value, answered[name], f"{path}.{name}" if path else name)
            else:
                yield f"{path}.{name} is missing" if path else f"{name} is missing"
        yield from (f"+{path}.{name}" if path else f"+{name}" for name in answered if name not in printed)
    elif isinstance(printed, list) and printed:
        if not answered:
            yield f"{path}: is empty"
        for one in answered:
            yield from differences(printed[0], one, f"{path}[]")


def extras(printed: Any, answered: Any) -> set[str]:
    """Return the paths of keys that are not printed, after checking that nothing else differs.

    Each of them must be named on the page for people who come from those programs.
    """
    found = list(differences(printed, answered))
    wrong = [one for one in found if not one.startswith("+")]
    assert wrong == [], wrong
    paths = {one.removeprefix("+") for one in found}
    text = PAGE.read_text(encoding="utf-8")
    unnamed = [path for path in paths if f"`{path.rpartition('.')[2]}`" not in text]
    assert unnamed == [], f"docs/coming_from.md does not tell of {unnamed}"
    return paths
