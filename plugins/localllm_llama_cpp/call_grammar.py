"""Writes the rules that hold a model to calls of the tools on offer, in its own format."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from localllm import CallFormat

from .argument_schemas import ArgumentSchemas
from .lark_text import ANY_TEXT, Marks, Rules, one_of, optional, quoted, sequence
from .literal_grammar import LiteralGrammar

_ID = '/"[A-Za-z0-9_-]{1,40}"/'
_BETWEEN = r'/[A-Za-z0-9_. "=:-]{0,40}/'  # an id or an index, behind a name; readers look for 128 in all
_KEY = r"/[A-Za-z_][A-Za-z0-9_-]{0,63}/"
_CONSTRAIN = "<|constrain|>"  # stands before a call's arguments in the one family with ``also_open``, harmony
_CONTENT_TYPE = "/[A-Za-z -]{0,10}/"  # "json"
_MAX_BOUND = 10_000  # characters; each is a state of the lexer
_OF_TEXT = frozenset(["const", "enum", "maxLength", "minLength"])


class CallWriter:
    """Writes calls into the rules of one grammar. ``marks`` say whether white space in markers is free."""

    def __init__(self, calls: CallFormat, tools: Sequence[ArgumentSchemas], marks: Marks, rules: Rules) -> None:
        self._calls = calls
        self._tools = tools
        self._marks = marks
        self._exact = marks.exactly()  # white space next to a bare value may be its own
        self._rules = rules
        self._literals = LiteralGrammar(calls, marks, rules)

    def section(self, *, parallel: bool) -> str:
        """Return what matches a call, or with ``parallel`` several, and all that stands around them."""
        opening = self._marks.literal(self._calls.section_open.lstrip())
        closing = self._marks.literal(self._calls.section_close)
        return sequence(opening, self._opener(), self._several(parallel=parallel), closing)

    def behind(self, opener: str, *, parallel: bool) -> str:
        """Return what follows the :func:`trigger` of one of the :func:`openers`."""
        calls = self._calls
        rest = opener.lstrip()[len(trigger(opener)) :]
        seam = "WS?" if rest and not rest[0].isspace() else ""  # some write "[TOOL_CALLS] [" for "[TOOL_CALLS]["
        is_section = opener == calls.section_open
        return sequence(
            seam,
            self._marks.literal(rest),
            self._opener() if is_section else "",
            self._several(parallel=parallel),
            self._marks.literal(calls.section_close) if is_section else "",
        )

    def _several(self, *, parallel: bool) -> str:
        """Return what matches calls, the first of which is opened already."""
        call = self._rules.add("call", one_of([self._rules.add("tool", self._call(tool)) for tool in self._tools]))
        if not (parallel and self._calls.parallel):
            return call
        separator = self._marks.literal(self._calls.separator)
        return f"{call} ({sequence(separator, self._opener(), call)})*"

    def _opener(self) -> str:
        openers = [self._marks.literal(text) for text in (self._calls.call_open, *self._calls.also_open)]
        return one_of([f"({text})" for text in openers]) if self._calls.also_open else openers[0]

    def _call(self, tool: ArgumentSchemas) -> str:
        body = {
            "json": self._json_call,
            "tagged_json": self._tagged_json_call,
            "tagged_values": self._tagged_values_call,
            "pythonic": self._pythonic_call,
        }[self._calls.style](tool)
        return sequence(body, self._marks.literal(self._calls.call_close))

    def _json_call(self, tool: ArgumentSchemas) -> str:
        calls, space = self._calls, "WS?"
        arguments = self._rules.add_part(tool.whole)
        if not calls.name_key:
            return sequence('"{"', space, _json_key(tool.name), arguments, space, '"}"')
        call_id = sequence(_json_key(calls.id_key), _ID) if calls.id_key else ""
        before = optional(sequence(call_id, space, quoted(","), space)) if call_id else ""
        behind = optional(sequence(space, quoted(","), space, call_id)) if call_id else ""
        pairs = sequence(_json_key(calls.name_key), _json_string(tool.name), space, '","', space)
        return sequence('"{"', space, before, pairs, _json_key(calls.arguments_key), arguments, behind, space, '"}"')

    def _tagged_json_call(self, tool: ArgumentSchemas) -> str:
        calls, mark = self._calls, self._marks.literal
        between = sequence(mark(calls.name_end), _BETWEEN) if calls.name_end else ""
        if calls.also_open:
            between = f"({between} | /[ ]?/) {optional(sequence(mark(_CONSTRAIN), _CONTENT_TYPE))}"
        return sequence(quoted(tool.name), between, mark(calls.name_close), self._rules.add_part(tool.whole))

    def _tagged_values_call(self, tool: ArgumentSchemas) -> str:
        mark = self._marks.literal
        named = tool.items()
        if tool.is_open:
            pairs = f"({self._tagged_pair(_KEY, tool.others, tool)})*"
        else:
            written = [(self._tagged_pair(quoted(key), tool.of(key), tool), required) for key, required in named]
            pairs = sequence(*(pair if required else optional(pair) for pair, required in written))
        return sequence(quoted(tool.name), mark(self._calls.name_close), pairs)

    def _tagged_pair(self, key: str, schema: Mapping[str, Any], tool: ArgumentSchemas) -> str:
        calls, mark = self._calls, self._marks.literal
        kinds = tool.kinds(schema)
        texts = tool.texts(schema) if not kinds or "string" in kinds else []
        is_any_text = any(not set(text) & _OF_TEXT for text in texts)  # which JSON is, too
        values = []
        if texts:
            key_close = calls.string_key_close or calls.key_close
            values.append(
                sequence(self._exact.literal(key_close), one_of([self._text_value(text, tool) for text in texts]))
            )
        if kinds != {"string"} and (calls.string_key_close or not is_any_text):
            part = self._rules.add_part(tool.part(tool.without_text(schema)))
            values.append(sequence(mark(calls.key_close), part, mark(calls.value_close)))
        return sequence(mark(calls.key_open), key, one_of(values))

    def _text_value(self, schema: Mapping[str, Any], tool: ArgumentSchemas) -> str:
        """Return what matches a string that stands as it is, and what closes it."""
        calls, mark = self._calls, self._marks.literal
        tool.enforce(schema, _OF_TEXT)
        choices = [value for value in tool.choices(schema) or () if isinstance(value, str)]
        if choices:
            texts = one_of([quoted(value) for value in choices])
            close = calls.value_close.rstrip()
            behind = mark(calls.value_close[len(close) :])
            return sequence(
                mark(calls.string_open), texts, mark(calls.string_close), self._exact.literal(close), behind
            )
        text = _text_of_length(schema, tool)
        if calls.string_open:
            value = self._marks.up_to(calls.string_close, self._rules, text=text)
            return sequence(mark(calls.string_open), value, mark(calls.value_close))
        return self._marks.up_to(calls.value_close, self._rules, text=text)

    def _pythonic_call(self, tool: ArgumentSchemas) -> str:
        return sequence(quoted(tool.name), self._literals.arguments(tool))


def openers(calls: CallFormat) -> list[str]:
    """Return the markers that begin calls amid any text; none for formats whose calls begin like other text.

    A call is read where its section isn't opened, too.
    """
    markers = [text for text in (calls.section_open, calls.call_open, *calls.also_open) if trigger(text)]
    words = [trigger(text) for text in markers]
    return [text for text in markers if not any(word in text and word != trigger(text) for word in words)]


def trigger(opener: str) -> str:
    """Return the first word of a marker, by which it is known; "" if it has none."""
    words = opener.split()
    word = re.split(r"(?<=[\]>)])(?=[\[{(])", words[0])[0] if words else ""
    return word if re.search(r"\w", word) else ""


def up_to_end(calls: CallFormat, marks: Marks, ends: Collection[int]) -> CallFormat:
    """Return the format without what lies beyond a token that ends the reply: it needs no text of its own."""
    call_close, is_end = marks.before_end(calls.call_close, ends)
    if is_end:
        return replace(calls, call_close=call_close, separator="", section_close="", parallel=False)
    section_close, _ = marks.before_end(calls.section_close, ends)
    _, is_end = marks.before_end(calls.separator, ends)
    return replace(calls, section_close=section_close, parallel=calls.parallel and not is_end)


def _text_of_length(schema: Mapping[str, Any], tool: ArgumentSchemas) -> str:
    bounds = []
    for keyword in ("minLength", "maxLength"):
        bound = schema.get(keyword)
        if isinstance(bound, int) and not 0 <= bound <= _MAX_BOUND:
            tool.leave_out(keyword)
            bound = None
        bounds.append(bound if isinstance(bound, int) else None)
    shortest, longest = bounds
    if shortest is None and longest is None:
        return ANY_TEXT
    return rf"/(.|\n){{{shortest or 0},{'' if longest is None else longest}}}/"


def _json_key(name: str) -> str:
    return sequence(_json_string(name), "WS?", '":"', "WS?")


def _json_string(text: str) -> str:
    return quoted(json.dumps(text, ensure_ascii=False))
