"""What the JSON schema of a tool's parameters says, in the form that grammars of calls need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localllm import Tool

_MAX_DEPTH = 16  # of $ref and anyOf
_WHITE_SPACE = r"[ \t\n]{0,16}"  # room for indentation; without a bound some models write nothing else any more
_SHARED = ("$defs", "definitions")
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


class ArgumentSchemas:
    """The schemas of one tool's arguments. A tool that is not strict has what can't be enforced left out of them."""

    def __init__(self, tool: Tool) -> None:
        self._root: Mapping[str, Any] = tool.parameters or _NO_PARAMETERS
        self._is_strict = tool.strict
        properties = self._root.get("properties")
        self._properties: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
        required = self._root.get("required")
        self._required = frozenset(map(str, required)) if isinstance(required, list) else frozenset()

    @property
    def whole(self) -> Mapping[str, Any]:
        """The schema of all arguments together, which are an object."""
        return self._ready({**self._root, "type": "object"})

    @property
    def is_open(self) -> bool:
        """Whether nothing is said of which arguments there are."""
        return not self._properties and self._root.get("additionalProperties") is not False

    def items(self) -> list[tuple[str, bool]]:
        """Return each parameter and whether it must be given."""
        return [(key, key in self._required) for key in self._properties]

    def of(self, key: str) -> Mapping[str, Any]:
        """Return the schema of one argument."""
        schema = self._properties.get(key)
        shared = {name: self._root[name] for name in _SHARED if name in self._root}
        return self._ready({**shared, **schema} if isinstance(schema, Mapping) else {})

    def resolved(self, schema: object) -> Mapping[str, Any]:
        """Return a schema with the reference that it may be followed."""
        for _ in range(_MAX_DEPTH):
            if not isinstance(schema, Mapping):
                break
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                return schema
            schema = self._look_up(reference)
        return {}

    def kinds(self, schema: object, depth: int = 0) -> frozenset[str]:
        """Return the JSON types that a schema allows; none if it doesn't say."""
        schema = self.resolved(schema)
        declared = schema.get("type")
        if isinstance(declared, str):
            return frozenset({declared})
        if isinstance(declared, list):
            return frozenset(map(str, declared))
        choices = next((schema[name] for name in ("anyOf", "oneOf", "allOf") if name in schema), None)
        if isinstance(choices, list) and depth < _MAX_DEPTH:
            kinds = [self.kinds(choice, depth + 1) for choice in choices]
            return frozenset.union(frozenset(), *kinds) if all(kinds) else frozenset()
        values = self.choices(schema)
        return frozenset("string" if isinstance(value, str) else "other" for value in values or ())

    def choices(self, schema: object) -> list[Any] | None:
        """Return the values that a schema lists, if it does."""
        schema = self.resolved(schema)
        if "const" in schema:
            return [schema["const"]]
        values = schema.get("enum")
        return values if isinstance(values, list) and values else None

    def _look_up(self, reference: str) -> object:
        found: object = self._root if reference.startswith("#") else None
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def _ready(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**schema, "x-guidance": {"whitespace_pattern": _WHITE_SPACE, "lenient": not self._is_strict}}
