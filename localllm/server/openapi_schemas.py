"""The schemas of one OpenAPI document: brings their definitions together under names that don't clash."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, Final

from localllm.contract.endpoint_doc import JsonSchema, SchemaSource

COMPONENTS: Final = "#/components/schemas/"

_NAMED_SCHEMAS: Final = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_PLAIN_VALUES: Final = frozenset({"const", "enum", "default", "example", "examples"})
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]")
_ROOT: Final = "#"


class SchemaShelf:
    """Collects schemas for ``components/schemas``; what is the same is kept once, whoever brings it.

    A schema's definitions (``$defs``) move here, and so does the schema itself where it has a title that can be a name.
    """

    def __init__(self) -> None:
        self.schemas: dict[str, Any] = {}
        self._names: dict[str, str] = {}  # by all that a schema says, its definitions included

    def place(self, source: SchemaSource) -> dict[str, Any]:
        """Return what is to stand where the schema is meant: a reference to it, or the schema itself."""
        schema = source() if callable(source) else source
        parts = _parts(schema)
        names = {ref: self._name(ref, parts) for ref in parts}
        refs = {ref: COMPONENTS + name for ref, name in names.items()}
        for ref, name in names.items():
            self.schemas[name] = rewrite(parts[ref], refs.get)
        if _ROOT in parts:
            return {"$ref": refs[_ROOT]}
        return dict(rewrite(_without_definitions(schema), refs.get))

    def _name(self, ref: str, parts: Mapping[str, JsonSchema]) -> str:
        title = str(parts[ref]["title"]) if ref == _ROOT else ref.rpartition("/")[2]
        wanted = _NOT_IN_NAMES.sub("_", title)
        others = {other: parts[other] for other in _reachable(ref, parts) - {ref}}
        meaning = json.dumps([wanted, parts[ref], others], sort_keys=True, default=str)
        if meaning not in self._names:
            taken = set(self._names.values())
            self._names[meaning] = next(name for name in _numbered(wanted) if name not in taken)
        return self._names[meaning]


def rewrite(schema: Any, new_ref: Callable[[str], str | None]) -> Any:  # noqa: ANN401 - true and false are schemas too
    """Return a copy of a schema with references renamed where ``new_ref`` has another one for them.

    Values (examples, constants) are left alone: what looks like a reference in them is none.
    """
    if not isinstance(schema, Mapping):
        return schema
    copy: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str):
            copy[key] = new_ref(value) or value
        elif key == "discriminator" and isinstance(value, Mapping):
            mapping = {name: new_ref(ref) or ref for name, ref in value.get("mapping", {}).items()}
            copy[key] = {**value, **({"mapping": mapping} if mapping else {})}
        elif key in _PLAIN_VALUES:
            copy[key] = value
        elif key in _NAMED_SCHEMAS and isinstance(value, Mapping):
            copy[key] = {name: rewrite(inner, new_ref) for name, inner in value.items()}
        elif isinstance(value, list | tuple):
            copy[key] = [rewrite(inner, new_ref) for inner in value]
        else:
            copy[key] = rewrite(value, new_ref)
    return copy


def _parts(schema: JsonSchema) -> dict[str, JsonSchema]:
    """Return what becomes a component of its own, by the references that the schema itself has for it."""
    parts = {
        f"#/{key}/{name}": inner for key in ("$defs", "definitions") for name, inner in schema.get(key, {}).items()
    }
    title = schema.get("title")
    if isinstance(title, str) and title and not _NOT_IN_NAMES.search(title):
        parts[_ROOT] = _without_definitions(schema)
    return parts


def _without_definitions(schema: JsonSchema) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("$defs", "definitions")}


def _reachable(start: str, parts: Mapping[str, JsonSchema]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        ref = waiting.pop()
        if ref in found or ref not in parts:
            continue
        found.add(ref)
        rewrite(parts[ref], lambda inner: waiting.append(inner))  # visits them, and changes nothing
    return found


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}{number}" for number in count(2))
