"""What the JSON schema of a tool's parameters says, in the form that grammars of calls need."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from localllm import Constraint, InvalidRequestError, Tool

from .constraint_error import ConstraintError
from .json_schema import TYPES, read_schema

MAX_SCHEMA_BYTES = 128 * 1024

_MAX_REFS = 16  # in a row
_SHARED = ("$defs", "definitions")
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
_ANYTHING = {"type": "object"}
_SAYS_NOTHING = frozenset(
    (
        *("$comment", "$id", "$ref", "$schema", "default", "deprecated", "description", "example", "examples"),
        *("readOnly", "strict", "title", "type", "writeOnly", "x-guidance", *_SHARED),
    )
)
_OF_ARGUMENTS = frozenset(["properties", "required", "additionalProperties"])


class ArgumentSchemas:
    """The schemas of one tool's arguments. Raises ``InvalidRequestError`` where a strict one can't be honoured.

    Of a tool that is not strict it is left out, and :attr:`warnings` say so.
    """

    def __init__(self, tool: Tool) -> None:
        self.name = tool.name
        self._is_strict = tool.strict
        self._title = f"The parameters of tool {tool.name!r}"
        self._left_out: dict[str, None] = {}
        self._warnings: list[str] = []
        self._document = self._read(tool.parameters or _NO_PARAMETERS)
        self._root = self.resolved(self._document)
        properties = self._root.get("properties")
        self._properties: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
        required = self._root.get("required")
        self._required = frozenset(map(str, required)) if isinstance(required, list) else frozenset()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what can't be honoured, as far as the grammars written so far had to know."""
        names = ", ".join(map(repr, self._left_out))
        left_out = (f"{self._title} are not enforced in full: {names} can't be, as this model writes its calls.",)
        return (*self._warnings, *(left_out if names else ()))

    @property
    def whole(self) -> Constraint:
        """All arguments together, which are an object: of the named ones, unless the schema speaks of others.

        JSON Schema would let any other property follow; small models then never stop to invent some.
        """
        closed = {"additionalProperties": False} if self._is_list_of_properties else {}
        return self.part({**self._document, **closed, "type": "object"})

    @property
    def _is_list_of_properties(self) -> bool:
        said = self._document.keys() - _SAYS_NOTHING
        is_plain = "$ref" not in self._document and said <= {"properties", "required"}
        return is_plain and bool(self._properties) and self._required <= self._properties.keys()

    @property
    def is_open(self) -> bool:
        """Whether nothing is said of which arguments there are."""
        return not self._properties and self._root.get("additionalProperties") is not False

    @property
    def others(self) -> Mapping[str, Any]:
        """The schema of arguments that are not named."""
        return self._with_shared(self._root.get("additionalProperties"))

    def items(self) -> list[tuple[str, bool]]:
        """Return each parameter and whether it must be given, for grammars that write them one by one."""
        self.enforce(self._root, _OF_ARGUMENTS)
        if not self._required <= self._properties.keys():
            self.leave_out("required")
        return [(key, key in self._required) for key in self._properties]

    def of(self, key: str) -> Mapping[str, Any]:
        """Return the schema of one argument."""
        return self._with_shared(self._properties.get(key))

    def part(self, schema: Mapping[str, Any]) -> Constraint:
        """Return what holds JSON to a schema."""
        return Constraint("json_schema", json.dumps(schema), strict=self._is_strict, param="tools", title=self._title)

    def enforce(self, schema: Mapping[str, Any], keywords: Collection[str]) -> None:
        """Leave out the keywords of a schema that are not among those which a grammar enforces."""
        for keyword in sorted(schema.keys() - _SAYS_NOTHING - set(keywords)):
            self.leave_out(keyword)

    def leave_out(self, keyword: str) -> None:
        """Note that a keyword is not enforced. Raises ``InvalidRequestError`` where it must be."""
        if self._is_strict:
            message = f"{self._title} can't be honoured: {keyword!r} can't be enforced as this model writes its calls."
            raise InvalidRequestError(message, param="tools")
        self._left_out[keyword] = None

    def resolved(self, schema: object) -> Mapping[str, Any]:
        """Return a schema with the reference that it may be followed."""
        for _ in range(_MAX_REFS):
            if not isinstance(schema, Mapping):
                break
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                return schema
            schema = self._look_up(reference)
            if not isinstance(schema, Mapping | bool):
                self.leave_out("$ref")
        return {}

    def options(self, schema: object) -> list[Any]:
        """Return the schemas of which one must match, if a schema lists such."""
        schema = self.resolved(schema)
        found = next((schema[name] for name in ("anyOf", "oneOf") if name in schema), None)
        return found if isinstance(found, list) else []

    def kinds(self, schema: object) -> frozenset[str]:
        """Return the JSON types that a schema allows; none if it doesn't say."""
        return self._kinds(schema, {})

    def texts(self, schema: object) -> list[Mapping[str, Any]]:
        """Return the schemas, of those which may match, that allow strings."""
        return list(self._texts(schema, set()))

    def without_text(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the schema of those values that are no strings."""
        kinds = self.kinds(schema)
        if "string" not in kinds:
            return schema
        choices = self.choices(schema)
        if choices:
            return {"enum": [value for value in choices if not isinstance(value, str)]}
        return schema if "other" in kinds else {**schema, "type": sorted(kinds - {"string"})}

    def choices(self, schema: object) -> list[Any] | None:
        """Return the values that a schema lists, if it does."""
        schema = self.resolved(schema)
        if "const" in schema:
            return [schema["const"]]
        values = schema.get("enum")
        return values if isinstance(values, list) and values else None

    def _kinds(self, schema: object, known: dict[int, frozenset[str]]) -> frozenset[str]:
        schema = self.resolved(schema)
        if id(schema) not in known:
            known[id(schema)] = frozenset()  # to itself, if it is recursive
            known[id(schema)] = self._kinds_of(schema, known)
        return known[id(schema)]

    def _kinds_of(self, schema: Mapping[str, Any], known: dict[int, frozenset[str]]) -> frozenset[str]:
        declared = schema.get("type", [])
        kinds = [str(kind) for kind in (declared if isinstance(declared, list) else [declared])]
        if not set(kinds) <= TYPES:
            self.leave_out("type")
        elif kinds:
            return frozenset(kinds)
        choices = self.options(schema) or schema.get("allOf")
        if isinstance(choices, list):
            allowed = [self._kinds(choice, known) for choice in choices]
            return frozenset.union(frozenset(), *allowed) if all(allowed) else frozenset()
        values = self.choices(schema)
        return frozenset("string" if isinstance(value, str) else "other" for value in values or ())

    def _texts(self, schema: object, seen: set[int]) -> Iterator[Mapping[str, Any]]:
        schema = self.resolved(schema)
        if id(schema) in seen:
            return
        seen.add(id(schema))
        options = self.options(schema)
        kinds = self.kinds(schema)
        if options:
            self.enforce(schema, ("anyOf", "oneOf"))
            for option in options:
                yield from self._texts(option, seen)
        elif not kinds or "string" in kinds:
            yield schema

    def _read(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            source = json.dumps(parameters)
            if len(source) <= MAX_SCHEMA_BYTES:
                return read_schema(source)
            reason = f"They are longer than {MAX_SCHEMA_BYTES} bytes."
        except (ConstraintError, RecursionError) as error:
            reason = str(error)
        if self._is_strict:
            message = f"{self._title} can't be honoured: {reason}"
            raise InvalidRequestError(message, param="tools")
        self._warnings.append(f"{self._title} are not enforced. {reason}")
        return _ANYTHING

    def _look_up(self, reference: str) -> object:
        found: object = self._document if reference.startswith("#") else None
        for step in reference[1:].split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def _with_shared(self, schema: object) -> Mapping[str, Any]:
        shared = {name: self._document[name] for name in _SHARED if name in self._document}
        return {**shared, **schema} if isinstance(schema, Mapping) else {}
