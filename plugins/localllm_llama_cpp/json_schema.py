"""Looks a JSON schema over before native code sees it, and makes the best of one that need not be kept strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from .constraint_error import ConstraintError

MAX_NESTING = 64  # objects and arrays in one another
MAX_MULTIPLE = 100_000  # "multipleOf" becomes an automaton with so many states: 0.1 s; 10**8 are minutes and gigabytes
TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))
_SAFE_IN_REFS = "#/%?:@!$&'()*+,;=~"


def read_schema(source: str) -> dict[str, Any]:
    """Parse a schema and check it as :func:`checked_schema` does. Raises ``ConstraintError``."""
    try:
        schema = json.loads(source)
    except (ValueError, RecursionError) as error:
        message = f"The JSON schema can't be read: {error}."
        raise ConstraintError(message) from error
    return checked_schema(schema)


def checked_schema(schema: object) -> dict[str, Any]:
    """Return the schema, its references escaped. Raises ``ConstraintError`` for what is none or nested too deep."""
    if schema is True:  # allows everything, as the empty schema does
        return {}
    if not isinstance(schema, dict):
        message = f"A JSON schema is an object, not {str(schema)[:40]!r}."
        raise ConstraintError(message)
    for found, depth in _objects(schema):
        if depth > MAX_NESTING:
            message = f"The JSON schema is nested deeper than {MAX_NESTING} levels; move parts of it to '$defs'."
            raise ConstraintError(message)
        ref = found.get("$ref")
        if isinstance(ref, str):  # many write names as they are, where a URI wants them escaped
            found["$ref"] = quote(ref, safe=_SAFE_IN_REFS, errors="replace")
    return schema


def check_multiples(schema: dict[str, Any]) -> None:
    """Raise ``ConstraintError`` where ``multipleOf`` would need too large an automaton.

    Where several values apply to one number, their least common multiple counts; here that of all in the schema does.
    """
    values = [Decimal(repr(value)) for found, _ in _objects(schema) if _is_positive(value := found.get("multipleOf"))]
    if not values:
        return
    shift = max(0, *(-int(value.as_tuple().exponent) for value in values))  # digits behind the point
    if shift + max(value.adjusted() for value in values) > len(str(MAX_MULTIPLE)):
        multiple = MAX_MULTIPLE + 1  # at least: not worth computing
    else:
        multiple = math.lcm(*(int(value.scaleb(shift)) for value in values))
    if multiple > MAX_MULTIPLE:
        message = (
            f"The 'multipleOf' values of the JSON schema have a common multiple of more than {MAX_MULTIPLE} steps."
        )
        raise ConstraintError(message)


def without(schema: dict[str, Any], *keywords: str) -> dict[str, Any]:
    """Return the schema without some keywords. Properties of those names stay: their values are schemas."""
    return {
        key: _without_in(value, keywords)
        for key, value in schema.items()
        if key not in keywords or isinstance(value, dict)
    }


def _without_in(value: Any, keywords: tuple[str, ...]) -> Any:  # noqa: ANN401  # any JSON value
    if isinstance(value, dict):
        return without(value, *keywords)
    if isinstance(value, list):
        return [_without_in(item, keywords) for item in value]
    return value


def _objects(value: Any) -> Iterator[tuple[dict[str, Any], int]]:  # noqa: ANN401  # any JSON value
    """Yield the objects in a value, and how deep they lie; the value itself lies at depth 1. Needs no recursion.

    What lies in arrays of arrays without an object between them counts as deep as it is, too.
    """
    stack = [(value, 1)]
    while stack:
        at, depth = stack.pop()
        if isinstance(at, dict):
            yield at, depth
            stack.extend((inner, depth + 1) for inner in at.values())
        elif isinstance(at, list):
            if depth > MAX_NESTING:
                yield {}, depth
            stack.extend((inner, depth + 1) for inner in at)


def _is_positive(value: object) -> bool:
    """Whether a value is a divisor at all; what is not, the compiler refuses in its own words."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
