"""Writes the grammar of arguments as Python has them, or as a model's own notation of that kind has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from localllm import CallFormat

from .argument_schemas import ArgumentSchemas
from .lark_text import Marks, Rules, one_of, quoted
from .tool_messages import CLOSING, write_literal

_STRING = r"""(/'([^'\\]|\\(.|\n))*'/ | /"([^"\\]|\\(.|\n))*"/)"""
_INTEGER = r"/-?(0|[1-9][0-9]{0,18})/"
_NUMBER = r"/-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?/"
_KEY = r"/[A-Za-z_][A-Za-z0-9_]{0,63}/"
_COMMA = r"/, ?/"
_MAX_DEPTH = 8  # of lists in schemas


class LiteralGrammar:
    """Adds rules for arguments in brackets to a grammar."""

    def __init__(self, calls: CallFormat, marks: Marks, rules: Rules) -> None:
        self._calls = calls
        self._marks = marks
        self._rules = rules
        self._open = calls.name_close or "("
        self._key_close = calls.key_close or "="
        self._words = ("true", "false", "null") if calls.string_open else ("True", "False", "None")

    def arguments(self, schemas: ArgumentSchemas) -> str:
        """Return what matches all arguments and their brackets: in the schema's order, with commas between them."""
        if schemas.is_open:
            pair = f"{_KEY} {self._mark(self._key_close)} {self._any()}"
            pairs = f"({pair} ({_COMMA} {pair})*)?"
        else:
            pairs = self._in_order([(self._pair(key, schemas), required) for key, required in schemas.items()])
        closing = quoted(CLOSING[self._open.strip()[-1]])
        return " ".join(part for part in (self._mark(self._open), pairs, closing) if part)

    def _in_order(self, pairs: Sequence[tuple[str, bool]]) -> str:
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

    def _pair(self, key: str, schemas: ArgumentSchemas) -> str:
        return f"{quoted(key)} {self._mark(self._key_close)} {self._value(schemas.of(key), schemas, 0)}"

    def _value(self, schema: object, schemas: ArgumentSchemas, depth: int) -> str:
        choices = schemas.choices(schema)
        if choices:
            return one_of([self._mark(write_literal(self._calls, value)) for value in choices])
        kinds = schemas.kinds(schema)
        written = [self._of_kind(kind, schemas.resolved(schema), schemas, depth) for kind in sorted(kinds)]
        return one_of(written) if written else self._any()

    def _of_kind(self, kind: str, schema: Mapping[str, object], schemas: ArgumentSchemas, depth: int) -> str:
        true, false, null = map(quoted, self._words)
        if kind == "array" and depth < _MAX_DEPTH:
            item = self._value(schema.get("items"), schemas, depth + 1)
            return f'("[" ({item} ({_COMMA} {item})*)? "]")'
        simple = {
            "string": self._string(),
            "integer": _INTEGER,
            "number": _NUMBER,
            "boolean": f"({true} | {false})",
            "null": null,
        }
        return simple[kind] if kind in simple else self._any()

    def _string(self) -> str:
        if not self._calls.string_open:
            return _STRING
        text = self._marks.up_to(self._calls.string_close, self._rules)
        return f"({self._mark(self._calls.string_open)} {text})"

    def _any(self) -> str:
        """Return the rule for any value."""
        name = "any_value"
        colon = self._mark(self._calls.key_close) if self._calls.string_open else '":" " "?'
        key = f"({self._string()} | {_KEY})" if self._calls.string_open else self._string()
        words = " | ".join(map(quoted, self._words))
        items = f'"[" ({name} ({_COMMA} {name})*)? "]"'
        pairs = f'"{{" ({key} {colon} {name} ({_COMMA} {key} {colon} {name})*)? "}}"'
        return self._rules.add_named(name, f"{self._string()} | {_NUMBER} | {words} | {items} | {pairs}")

    def _mark(self, text: str) -> str:
        return self._marks.literal(text)
