"""Writes the grammar that holds a model to calls of the tools on offer, in its own format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from localllm import CallFormat, Constraint, ThoughtFormat, Tool

from .argument_schemas import ArgumentSchemas
from .lark_text import Marks, Rules, SpecialToken, no_special_token, one_of, quoted
from .literal_grammar import LiteralGrammar

_ID = '/"[A-Za-z0-9_-]{1,40}"/'
_BETWEEN = r'/[A-Za-z0-9_. "=:-]{0,40}/'  # an id or an index, behind a name
_KEY = r"/[A-Za-z_][A-Za-z0-9_-]{0,63}/"
_LINE_ENDS = r"/\n{1,2}/?"


def call_grammar(
    calls: CallFormat,
    tools: Sequence[Tool],
    *,
    parallel: bool = True,
    thought: ThoughtFormat | None = None,
    special_token: SpecialToken = no_special_token,
) -> Constraint:
    """Return the constraint under which a reply is one call of one of ``tools``, or with ``parallel`` several.

    With ``thought``, line ends may stand before the first call, as they do behind a thought.
    """
    writer = _Writer(calls, Marks(special_token))
    return Constraint("lark", writer.grammar(tools, parallel=parallel, lead=_LINE_ENDS if thought else ""))


def triggered_call_grammar(
    calls: CallFormat,
    tools: Sequence[Tool],
    *,
    parallel: bool = True,
    special_token: SpecialToken = no_special_token,
) -> tuple[str, Constraint] | None:
    """Return the text that calls begin with, and what holds from there on, that text included.

    None for formats whose calls begin like any other text. White space around markers is free in this grammar: some
    of it may be part of the token that ends the trigger.
    """
    trigger = _first_word(calls.section_open or calls.call_open)
    if not re.search(r"\w", trigger):
        return None
    writer = _Writer(calls, Marks(special_token, is_exact=False))
    grammar = writer.grammar(tools, parallel=parallel, lead="")
    return trigger, Constraint("lark", grammar)


def _first_word(marker: str) -> str:
    words = marker.split()
    return re.split(r"(?<=[\]>)])(?=[\[{(])", words[0])[0] if words else ""


class _Writer:
    """Writes one grammar."""

    def __init__(self, calls: CallFormat, marks: Marks) -> None:
        self._calls = calls
        self._marks = marks
        self._rules = Rules()
        self._literals = LiteralGrammar(calls, marks, self._rules)

    def grammar(self, tools: Sequence[Tool], *, parallel: bool, lead: str) -> str:
        """Return the grammar's text."""
        calls, mark = self._calls, self._marks.literal
        call = self._rules.add("call", one_of([self._rules.add("tool", self._call(tool)) for tool in tools]))
        more = f"({_sequence(mark(calls.separator), call)})*" if parallel and calls.parallel else ""
        opening = mark(calls.section_open.lstrip())
        return self._rules.text(_sequence(lead, opening, call, more, mark(calls.section_close)))

    def _call(self, tool: Tool) -> str:
        calls, mark = self._calls, self._marks.literal
        schemas = ArgumentSchemas(tool)
        body = {
            "json": self._json_call,
            "tagged_json": self._tagged_json_call,
            "tagged_values": self._tagged_values_call,
            "pythonic": self._pythonic_call,
        }[calls.style](tool.name, schemas)
        return _sequence(mark(calls.call_open), body, mark(calls.call_close))

    def _json_call(self, name: str, schemas: ArgumentSchemas) -> str:
        calls, space = self._calls, "WS?"
        arguments = self._rules.add_json(schemas.whole)
        if not calls.name_key:
            return _sequence('"{"', space, _json_key(name), arguments, space, '"}"')
        call_id = _sequence(_json_key(calls.id_key), _ID) if calls.id_key else ""
        before = f"({_sequence(call_id, space, quoted(','), space)})?" if call_id else ""
        behind = f"({_sequence(space, quoted(','), space, call_id)})?" if call_id else ""
        pairs = _sequence(_json_key(calls.name_key), _json_string(name), space, '","', space)
        return _sequence('"{"', space, before, pairs, _json_key(calls.arguments_key), arguments, behind, space, '"}"')

    def _tagged_json_call(self, name: str, schemas: ArgumentSchemas) -> str:
        calls, mark = self._calls, self._marks.literal
        between = _sequence(mark(calls.name_end), _BETWEEN) if calls.name_end else ""
        return _sequence(quoted(name), between, mark(calls.name_close), self._rules.add_json(schemas.whole))

    def _tagged_values_call(self, name: str, schemas: ArgumentSchemas) -> str:
        mark = self._marks.literal
        if schemas.is_open:
            pairs = f"({self._tagged_pair(_KEY, {}, schemas)})*"
        else:
            written = [
                (self._rules.add("pair", self._tagged_pair(quoted(key), schemas.of(key), schemas)), required)
                for key, required in schemas.items()
            ]
            pairs = _sequence(*(rule if required else f"{rule}?" for rule, required in written))
        return _sequence(quoted(name), mark(self._calls.name_close), pairs)

    def _tagged_pair(self, key: str, schema: Mapping[str, Any], schemas: ArgumentSchemas) -> str:
        calls, mark = self._calls, self._marks.literal
        kinds = schemas.kinds(schema)
        is_text, is_json = not kinds or "string" in kinds, kinds != {"string"}
        as_json = _sequence(mark(calls.key_close), self._rules.add_json(schema), mark(calls.value_close))
        as_text = _sequence(mark(calls.string_key_close or calls.key_close), self._text_value(schema, schemas))
        if is_text and is_json and calls.string_key_close:
            value = one_of([as_text, as_json])
        else:
            value = as_text if is_text else as_json
        return _sequence(mark(calls.key_open), key, value)

    def _text_value(self, schema: Mapping[str, Any], schemas: ArgumentSchemas) -> str:
        """Return what matches a string that stands as it is, and what closes it."""
        calls, mark = self._calls, self._marks.literal
        choices = schemas.choices(schema)
        if choices and all(isinstance(value, str) for value in choices):
            texts = one_of([quoted(value) for value in choices])
            return _sequence(mark(calls.string_open), texts, mark(calls.string_close), mark(calls.value_close))
        if calls.string_open:
            text = self._marks.up_to(calls.string_close, self._rules)
            return _sequence(mark(calls.string_open), text, mark(calls.value_close))
        return self._marks.up_to(calls.value_close, self._rules)

    def _pythonic_call(self, name: str, schemas: ArgumentSchemas) -> str:
        return _sequence(quoted(name), self._literals.arguments(schemas))


def _json_key(name: str) -> str:
    return _sequence(_json_string(name), "WS?", '":"', "WS?")


def _json_string(text: str) -> str:
    return quoted(quoted(text))


def _sequence(*parts: str) -> str:
    return " ".join(part for part in parts if part)
