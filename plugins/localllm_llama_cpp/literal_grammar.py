"""Writes the grammar of arguments as Python has them, or as a model's own notation of that kind has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from localllm import CallFormat

from .argument_schemas import ArgumentSchemas
from .lark_text import Marks, Rules, one_of, optional, quoted, sequence
from .tool_messages import CLOSING, write_literal

_STRING = r"""(/'([^'\\]|\\(.|\n))*'/ | /"([^"\\]|\\(.|\n))*"/)"""
_INTEGER = r"/-?(0|[1-9][0-9]{0,18})/"
_NUMBER = r"/-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?/"
_KEY = r"/[A-Za-z_][A-Za-z0-9_]{0,63}/"
_COMMA = r"/, ?/"
_ENFORCED = frozenset(["additionalProperties", "anyOf", "const", "enum", "items", "oneOf", "properties", "required"])


class LiteralGrammar:
    """Adds rules for arguments in brackets to a grammar."""

    def __init__(self, calls: CallFormat, marks: Marks, rules: Rules) -> None:
        self._calls = calls
        self._marks = marks
        self._rules = rules
        self._open = calls.name_close or "("
        self._key_close = calls.key_close or "="
        self._words = ("true", "false", "null") if calls.string_open else ("True", "False", "None")
        self._anything = ""

    def arguments(self, schemas: ArgumentSchemas) -> str:
        """Return what matches all arguments and their brackets: in the schema's order, with commas between them."""
        values = _Values(self, schemas)
        named = schemas.items()
        if schemas.is_open:
            pair = sequence(_KEY, self.mark(self._key_close), values.of(schemas.others))
            pairs = optional(f"{pair} ({_COMMA} {pair})*")
        else:
            pairs = self.in_order(
                [
                    (sequence(quoted(key), self.mark(self._key_close), values.of(schemas.of(key))), is_required)
                    for key, is_required in named
                ]
            )
        return sequence(self.mark(self._open), pairs, quoted(CLOSING[self._open.strip()[-1]]))

    def in_order(self, pairs: Sequence[tuple[str, bool]]) -> str:
        """Return what matches the pairs, those not required left out or not, with commas between those that are there.

        Built from the end: what may follow when a pair was written already, and when none was.
        """
        behind_pair, at_start = "", ""
        for pair, required in reversed(pairs):
            first = f"{pair} {behind_pair}".strip()
            later = f"{_COMMA} {first}"
            if required:
                behind_pair, at_start = later, first
            else:
                at_start = f"({first} | {at_start})" if at_start else f"({first})?"
                behind_pair = f"({later} | {behind_pair})" if behind_pair else f"({later})?"
            behind_pair, at_start = self._rules.add("rest", behind_pair), self._rules.add("rest", at_start)
        return at_start

    def pair(self, key: str | None, value: str) -> str:
        """Return what matches a key (None: any) and a value inside of a value."""
        if not self._calls.string_open:
            written = _STRING if key is None else one_of([quoted(repr(key)), quoted(json.dumps(key))])
            return sequence(written, '":" " "?', value)
        marked = sequence(self.mark(self._calls.string_open), quoted(key or ""), self.mark(self._calls.string_close))
        written = f"({self.string()} | {_KEY})" if key is None else one_of([quoted(key), f"({marked})"])
        return sequence(written, self.mark(self._calls.key_close), value)

    def literal(self, value: object) -> str:
        """Return what matches one value."""
        return self.mark(write_literal(self._calls, value))

    def string(self) -> str:
        """Return what matches any string."""
        if not self._calls.string_open:
            return _STRING
        text = self._marks.up_to(self._calls.string_close, self._rules)
        return f"({self.mark(self._calls.string_open)} {text})"

    def simple(self, kind: str) -> str:
        """Return what matches a value of a kind, as far as it holds no other values; "" for such that do."""
        true, false, null = map(quoted, self._words)
        return {
            "string": self.string(),
            "integer": _INTEGER,
            "number": _NUMBER,
            "boolean": f"({true} | {false})",
            "null": null,
        }.get(kind, "")

    def anything(self) -> str:
        """Return the rule for any value."""
        if not self._anything:
            name = self._anything = self._rules.reserve("any_value")
            words = " | ".join(map(quoted, self._words))
            pair = self.pair(None, name)
            items = f'"[" ({name} ({_COMMA} {name})*)? "]"'
            pairs = f'"{{" ({pair} ({_COMMA} {pair})*)? "}}"'
            self._rules.define(name, f"{self.string()} | {_NUMBER} | {words} | {items} | {pairs}")
        return self._anything

    def rule(self, name: str) -> str:
        """Reserve a rule."""
        return self._rules.reserve(name)

    def define(self, name: str, body: str) -> None:
        """Say what a reserved rule stands for."""
        self._rules.define(name, body)

    def mark(self, text: str) -> str:
        """Return what matches a marker."""
        return self._marks.literal(text)


class _Values:
    """Writes the values of one tool's arguments."""

    def __init__(self, grammar: LiteralGrammar, schemas: ArgumentSchemas) -> None:
        self._grammar = grammar
        self._schemas = schemas
        self._rules: dict[str, str] = {}

    def of(self, schema: object) -> str:
        """Return what matches a value by its schema, which may refer to itself."""
        schema = self._schemas.resolved(schema)
        known = json.dumps(schema, sort_keys=True)
        if known not in self._rules:
            self._rules[known] = self._grammar.rule("value")
            self._grammar.define(self._rules[known], self._body(schema))
        return self._rules[known]

    def _body(self, schema: Mapping[str, object]) -> str:
        self._schemas.enforce(schema, _ENFORCED)
        choices = self._schemas.choices(schema)
        if choices:
            return one_of([self._grammar.literal(value) for value in choices])
        options = self._schemas.options(schema)
        if options:
            return one_of([self.of(option) for option in options])
        kinds = sorted(self._schemas.kinds(schema))
        return one_of([self._of_kind(kind, schema) for kind in kinds]) if kinds else self._grammar.anything()

    def _of_kind(self, kind: str, schema: Mapping[str, object]) -> str:
        if kind == "array":
            item = self.of(schema.get("items"))
            return f'("[" ({item} ({_COMMA} {item})*)? "]")'
        if kind == "object":
            return self._object(schema)
        return self._grammar.simple(kind) or self._grammar.anything()

    def _object(self, schema: Mapping[str, object]) -> str:
        properties, required = schema.get("properties"), schema.get("required")
        needed = {str(key) for key in required} if isinstance(required, list) else set()
        named = properties if isinstance(properties, Mapping) else {}
        if not needed <= named.keys():
            self._schemas.leave_out("required")
        if named or schema.get("additionalProperties") is False:
            pairs = [(self._grammar.pair(key, self.of(value)), key in needed) for key, value in named.items()]
            return sequence('("{"', self._grammar.in_order(pairs), '"}")')
        pair = self._grammar.pair(None, self.of(schema.get("additionalProperties")))
        return f'("{{" ({pair} ({_COMMA} {pair})*)? "}}")'
