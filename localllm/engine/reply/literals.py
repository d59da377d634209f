"""Reads literals as Python has them, or as a model's own notation has them, out of a reply; writes them as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from localllm.engine.reply.input import Marker, Reading, ReplyInput
from localllm.engine.reply.json_copy import Write, escape
from localllm.engine.reply.values import ANY_KIND, to_json

_MAX_DEPTH = 32
_BARE_END = re.compile(r"[,)\]}\n]")
_BARE_KEY_END = re.compile(r"[:=,)\]}\s]")
_CLOSING = frozenset(")]}")
_NO_ENTRY = _CLOSING | {""}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_CODE_DIGITS = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True, slots=True)
class Quotes:
    """What stands around strings besides the usual quotes."""

    open: Marker
    close: Marker


class LiteralReader:
    """Reads one literal after the other. Anything that is none is a string, up to the next comma or bracket."""

    def __init__(self, source: ReplyInput, quotes: Quotes, key_close: str) -> None:
        self._source = source
        self._quotes = quotes
        self._key_close = (key_close, ":")

    def copy(self, write: Write, kinds: frozenset[str] = ANY_KIND, depth: int = 0) -> Reading[None]:
        """Write the JSON for the literal that begins here."""
        first = yield from self._source.skip_space()
        if (yield from self._source.take((self._quotes.open,))):
            yield from self._copy_until_close(write)
        elif first and first in "'\"":
            yield from self._copy_quoted(write)
        elif first and first in "([{" and depth < _MAX_DEPTH:
            self._source.at += 1
            if first == "{":
                yield from self._copy_mapping(write, depth)
            else:
                yield from self._copy_list(write, depth)
        else:
            write(to_json((yield from self._bare(_BARE_END)).strip(), kinds))

    def read_key(self) -> Reading[str]:
        """Return the key that begins here: quoted or bare."""
        first = yield from self._source.skip_space()
        start = self._source.at
        if (first and first in "'\"") or (yield from self._source.take((self._quotes.open,))):
            self._source.at = start
            pieces: list[str] = []
            yield from self.copy(pieces.append)
            key = json.loads("".join(pieces) or '""') if _is_complete(pieces) else ""
            return str(key)
        return (yield from self._bare(_BARE_KEY_END))

    def _bare(self, end: re.Pattern[str]) -> Reading[str]:
        pieces: list[str] = []
        source = self._source
        while (yield from source.peek()):
            found = end.search(source.text, source.at)
            stop = found.start() if found else len(source.text)
            pieces.append(source.text[source.at : stop])
            source.at = stop
            if found:
                break
        return "".join(pieces)

    def _copy_until_close(self, write: Write) -> Reading[None]:
        source = self._source
        write('"')
        while (yield from source.peek()):
            stop = self._quotes.close.find(source.text, source.at)
            write(escape(source.text[source.at : stop]))
            source.at = stop
            end = self._quotes.close.match(source.text, stop)
            if end >= 0:
                source.at = end
                write('"')
                return
            if source.ended:
                write(escape(source.text[stop:]))
                source.at = len(source.text)
            elif stop < len(source.text):
                yield

    def _copy_quoted(self, write: Write) -> Reading[None]:
        source = self._source
        quote = source.text[source.at]
        source.at += 1
        write('"')
        while (char := (yield from source.peek())) != "":
            source.at += 1
            if char == quote:
                write('"')
                return
            write(escape((yield from self._escaped()) if char == "\\" else char))

    def _escaped(self) -> Reading[str]:
        source = self._source
        char = yield from source.peek()
        source.at += len(char)
        if char not in _CODE_DIGITS:
            return _ESCAPES.get(char, char)
        digits = ""
        while len(digits) < _CODE_DIGITS[char] and (yield from source.peek()) in tuple("0123456789abcdefABCDEF"):
            digits += source.text[source.at]
            source.at += 1
        code = int(digits, 16) if digits else 0
        is_half = 0xD800 <= code < 0xE000 or code > 0x10FFFF
        return "\ufffd" if is_half else chr(code)

    def _skip_to_entry(self) -> Reading[str]:
        """Read up to the next entry, or past the bracket that closes them all; return the character that stood there.

        At the reply's end that is "".
        """
        source = self._source
        while (char := (yield from source.skip_space())) == ",":
            source.at += 1
        if char in _CLOSING:
            source.at += 1
        return char

    def _copy_list(self, write: Write, depth: int) -> Reading[None]:
        write("[")
        n_items = 0
        while (char := (yield from self._skip_to_entry())) not in _NO_ENTRY:
            write(", " if n_items else "")
            n_items += 1
            yield from self.copy(write, depth=depth + 1)
        write("]" if char else "")

    def _copy_mapping(self, write: Write, depth: int) -> Reading[None]:
        source = self._source
        write("{")
        n_items = 0
        while (char := (yield from self._skip_to_entry())) not in _NO_ENTRY:
            key = yield from self.read_key()
            write((", " if n_items else "") + json.dumps(key, ensure_ascii=False) + ": ")
            n_items += 1
            if (yield from source.skip_space()) in self._key_close:
                source.at += 1
            yield from self.copy(write, depth=depth + 1)
        write("}" if char else "")


def _is_complete(pieces: list[str]) -> bool:
    return len(pieces) > 1 and pieces[-1] == '"'
