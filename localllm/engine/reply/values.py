"""Turns argument values that a model wrote outside of JSON into JSON, by the type that the tool's schema gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ANY_KIND = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})

_MAX_DEPTH = 16  # of $ref and anyOf
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class ArgumentKinds:
    """Which kinds of values each parameter of a tool may have, by its JSON schema."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._root = parameters
        properties = parameters.get("properties")
        self._properties: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}

    def of(self, key: str) -> frozenset[str]:
        """Return the JSON types that the parameter may have; all of them if its schema doesn't say."""
        return _kinds(self._properties.get(key), self._root, _MAX_DEPTH)


def to_json(text: str, kinds: frozenset[str]) -> str:
    """Return the JSON for a value written as bare text: itself where it is JSON of one of ``kinds``, else a string."""
    bare = text.strip()
    bare = _PYTHON_WORDS.get(bare, bare)
    try:
        kind = _kind_of(json.loads(bare, parse_constant=_refuse))
    except (ValueError, RecursionError):
        kind = None
    if kind is None or ("string" in kinds and (kind == "string" or kind not in kinds)):
        return json.dumps(text, ensure_ascii=False)
    return bare


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", list: "array", dict: "object", type(None): "null"}
    return names[type(value)]


def _kinds(schema: object, root: Mapping[str, Any], depth: int) -> frozenset[str]:
    if not isinstance(schema, Mapping) or depth == 0:
        return ANY_KIND
    if isinstance(reference := schema.get("$ref"), str):
        return _kinds(_resolve(reference, root), root, depth - 1)
    declared = schema.get("type")
    if isinstance(declared, str):
        return _with_integers({declared})
    if isinstance(declared, list):
        return _with_integers({kind for kind in declared if isinstance(kind, str)})
    values = (
        schema["enum"] if isinstance(schema.get("enum"), list) else [schema["const"]] if "const" in schema else None
    )
    if values:
        return frozenset(_kind_of(value) for value in values)
    for choice in ("anyOf", "oneOf", "allOf"):
        if isinstance(choices := schema.get(choice), list) and choices:
            each = [_kinds(option, root, depth - 1) for option in choices]
            return frozenset.intersection(*each) if choice == "allOf" else frozenset.union(*each)
    return ANY_KIND


def _with_integers(kinds: set[str]) -> frozenset[str]:
    return frozenset(kinds | {"integer"} if "number" in kinds else kinds)


def _resolve(reference: str, root: Mapping[str, Any]) -> object:
    if not reference.startswith("#"):
        return None
    found: object = root
    for step in reference[1:].split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found
