"""Reads calls whose arguments are written one by one: each in tags of its own, or as in a call of Python's."""

from __future__ import annotations

import json
from collections.abc import Sequence

from localllm.contract.chat_format import CallFormat, Tool
from localllm.engine.reply.calls import MAX_ID_CHARS, CallReader
from localllm.engine.reply.input import Marker, Reading, ReplyInput, common_prefix, common_suffix
from localllm.engine.reply.json_copy import escape
from localllm.engine.reply.literals import LiteralReader, Quotes
from localllm.engine.reply.parts import NotACallError, PartList
from localllm.engine.reply.values import ANY_KIND, to_json


class _ValuesReader(CallReader):
    """Builds the arguments' JSON text from keys and values."""

    def __init__(self, source: ReplyInput, parts: PartList, calls: CallFormat, tools: Sequence[Tool]) -> None:
        super().__init__(source, parts, calls, tools)
        self._quotes = Quotes(Marker(calls.string_open), Marker(calls.string_close))
        self._literals = LiteralReader(source, self._quotes, calls.key_close or "=")

    def _add_key(self, key: str, n_before: int) -> None:
        separator = ", " if n_before else "{"
        self._parts.add_arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")

    def _add_end(self, n_arguments: int) -> None:
        self._parts.add_arguments("}" if n_arguments else "{}")


class TaggedValuesCallReader(_ValuesReader):
    """Style ``tagged_values``: each argument in tags. Strings stand bare, and are passed on as they arrive."""

    def __init__(self, source: ReplyInput, parts: PartList, calls: CallFormat, tools: Sequence[Tool]) -> None:
        super().__init__(source, parts, calls, tools)
        self._key_open = Marker(calls.key_open)
        key_closes = (calls.key_close, calls.string_key_close or calls.key_close)
        before_kind = common_prefix(*key_closes)
        self._key_end = Marker(before_kind)
        self._said_end = common_suffix(*key_closes) if calls.string_key_close else ""
        self._says_string = calls.string_key_close[len(before_kind) :].removesuffix(self._said_end)
        self._value_close = Marker(calls.value_close)
        self._space_before = calls.key_close[len(calls.key_close.rstrip()) :]
        self._space_behind = calls.value_close[: len(calls.value_close) - len(calls.value_close.lstrip())]

    def read(self) -> Reading[None]:
        """Read a call and report it, as soon as its first argument begins, or it is clear that it has none."""
        name = yield from self._read_name()
        n_arguments = 0
        while (yield from self._stands_here(self._key_open.match)):
            if not n_arguments:
                self._begin(name)
            yield from self._source.take((self._key_open,))
            key = (yield from self._read_until(self._key_end)).strip()
            self._add_key(key, n_arguments)
            n_arguments += 1
            kinds = (yield from self._read_kinds()) or self._kinds_of(name, key)
            if not (yield from self._read_value(kinds)):
                return  # the reply ends inside the value: what is cut stays cut
        if not n_arguments:
            if not (yield from self._stands_here(self._call_close.match_some)):
                raise NotACallError
            self._begin(name)
        self._add_end(n_arguments)

    def _read_kinds(self) -> Reading[frozenset[str]]:
        """Read what stands between a key's end and its value; in some formats it says whether that is a string."""
        if not self._said_end:
            return frozenset()
        said = yield from self._read_until(Marker(self._said_end), at_most=MAX_ID_CHARS)
        return frozenset({"string"}) if said == self._says_string else ANY_KIND - {"string"}

    def _read_value(self, kinds: frozenset[str]) -> Reading[bool]:
        """Read a value and what closes it; return whether that came."""
        if (yield from self._stands_here(self._quotes.open.match)):
            yield from self._literals.copy(self._parts.add_arguments, kinds)
            return (yield from self._source.take_some(self._value_close))
        yield from self._skip_space_before()
        if kinds != {"string"}:
            text, is_whole = yield from self._read_to(self._value_close)
            self._parts.add_arguments(to_json(text.removesuffix(self._space_behind), kinds))
            return is_whole
        self._parts.add_arguments('"')
        is_whole = yield from self._pass_string_on()
        self._parts.add_arguments('"' if is_whole else "")
        return is_whole

    def _skip_space_before(self) -> Reading[None]:
        """Skip the line end between ``key_close`` and the value."""
        for char in self._space_before:
            if (yield from self._source.peek()) != char:
                return
            self._source.at += 1

    def _pass_string_on(self) -> Reading[bool]:
        """Pass a bare string on, without the line end before ``value_close``; return whether that came."""
        source = self._source
        while True:
            start = self._value_close.find(source.text, source.at)
            end = self._value_close.match(source.text, start)
            text = source.text[source.at : start]
            if end >= 0:
                self._parts.add_arguments(escape(text.removesuffix(self._space_behind)))
                source.at = end
                return True
            if source.ended:
                self._parts.add_arguments(escape(source.text[source.at :]))
                source.at = len(source.text)
                return False
            ready = text[: len(text) - _n_overlap(text, self._space_behind)]
            self._parts.add_arguments(escape(ready))
            source.at += len(ready)
            yield


class PythonicCallReader(_ValuesReader):
    """Style ``pythonic``: ``NAME(key=literal, ...)``, or the same with other marks."""

    def __init__(self, source: ReplyInput, parts: PartList, calls: CallFormat, tools: Sequence[Tool]) -> None:
        super().__init__(source, parts, calls, tools)
        self._open = Marker(calls.name_close or "(")
        self._key_closes = (Marker(calls.key_close or "="), Marker(":"))

    def read(self) -> Reading[None]:
        """Read a call and report it, as soon as its first key is read, or it is clear that it has none."""
        source = self._source
        name = yield from self._read_bare_name()
        yield from source.skip_space()
        if not (yield from source.take((self._open,))):
            raise NotACallError
        n_arguments = 0
        while (char := (yield from source.skip_space())) != "" and char not in ")]}":
            if char == ",":
                source.at += 1
                continue
            key = yield from self._literals.read_key()
            yield from source.skip_space()
            if not (yield from source.take(self._key_closes)):
                raise NotACallError
            if not n_arguments:
                self._begin(name)
            source.forget()
            self._add_key(key, n_arguments)
            n_arguments += 1
            yield from self._literals.copy(self._parts.add_arguments, self._kinds_of(name, key))
            source.keep()  # if the rest is broken, it is text
        if not char:
            raise NotACallError
        source.at += 1
        if not n_arguments:
            self._begin(name)
        self._add_end(n_arguments)


def _n_overlap(text: str, edge: str) -> int:
    """Return the length of the longest end of ``text`` that ``edge`` begins with."""
    return next((length for length in range(len(edge), 0, -1) if text.endswith(edge[:length])), 0)
