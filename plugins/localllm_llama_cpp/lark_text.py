"""Writes pieces of Lark grammars as llguidance reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from functools import cache

from localllm import Constraint

SpecialToken = Callable[[str], int | None]
"""Returns the id of the special token that is spelled like a text, or None if the vocabulary has none.

It must know those tokens that the constraint engine takes for special; their spelling alone does not match them.
"""

ANY_TEXT = r"/(.|\n)*/"

_TOKEN = re.compile(r"<[^<>\s]{1,64}>|\[[A-Z_/ ]{1,64}\]")
_UNPRINTABLE = re.compile(r"[\x7f-\x9f]")


def no_special_token(_text: str) -> int | None:
    """Say of every text that it is none: for vocabularies without special tokens."""
    return None


class Marks:
    """Writes markers: special tokens by id, everything else quoted; each white space as it is, or as any or none."""

    def __init__(self, special_token: SpecialToken, *, is_exact: bool = True) -> None:
        self._special_token = cache(special_token)  # the same few are looked up for each argument of each tool
        self._is_exact = is_exact

    def exactly(self) -> Marks:
        """Return the same with each white space as it is."""
        return Marks(self._special_token)

    def literal(self, text: str) -> str:
        """Return what matches ``text``; "" for an empty one."""
        if self._is_exact:
            return " ".join(self._pieces(text))
        words = re.split(r"(\s+)", text)
        return " ".join("WS?" if word.isspace() else " ".join(self._pieces(word)) for word in words if word)

    def up_to(self, close: str, rules: Rules, *, text: str = ANY_TEXT) -> str:
        """Return what matches any text (or what the expression ``text`` says) and the first ``close`` behind it.

        White space that ``close`` begins with may be missing behind any text: what reads it does not count it in.
        A text can't hold special tokens. Where ``close`` begins with one, its spelling closes as well: whoever reads
        the text can't tell the two apart.
        """
        core = close.strip()
        before, _, behind = close.partition(core)
        before = "" if text == ANY_TEXT else before
        (spelling, token), *rest = self._split(core)
        first = rules.add("text", text, attributes=f"[suffix={quoted(before + spelling)}]")
        if token is not None:
            spaced = text[:-1] + before.replace("\n", r"\n") + "/"  # one lexeme: a text by itself would take it all
            first = f"({first} | {spaced} {_piece(spelling, token)})"
        return sequence(first, *(_piece(*piece) for piece in rest), self.literal(behind))

    def opening(self, text: str, rules: Rules) -> str:
        """Return what matches ``text``, even where any other text may stand as well: what it opens then follows."""
        (spelling, token), *rest = self._split(text.strip())
        first = rules.add("open", quoted(spelling), attributes="[lazy]") if token is None else _piece(spelling, token)
        return sequence(first, *(_piece(*piece) for piece in rest))

    def before_end(self, text: str, ends: Collection[int]) -> tuple[str, bool]:
        """Return ``text`` up to the first token of ``ends`` in it, and whether there is one."""
        for found in _TOKEN.finditer(text):
            if self._special_token(found[0]) in ends:
                return text[: found.start()].rstrip(), True
        return text, False

    def special_tokens(self, text: str) -> list[int]:
        """Return the special tokens that a text is written with."""
        return [token for _, token in self._split(text) if token is not None]

    def _pieces(self, text: str) -> list[str]:
        return [_piece(spelling, token) for spelling, token in self._split(text)]

    def _split(self, text: str) -> list[tuple[str, int | None]]:
        pieces: list[tuple[str, int | None]] = []
        at = 0
        for found in _TOKEN.finditer(text):
            token = self._special_token(found[0])
            if token is not None:
                pieces += [(text[at : found.start()], None), (found[0], token)]
                at = found.end()
        return [piece for piece in (*pieces, (text[at:], None)) if piece[0]]


class Rules:
    """Collects the rules of a grammar, and the parts that they refer to; the same one twice is one."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._recursive: dict[str, str] = {}
        self._parts: dict[Constraint, str] = {}

    def add(self, name: str, body: str, *, attributes: str = "") -> str:
        """Add a rule and return the name that it got."""
        return self._names.setdefault((attributes, body), f"{name}_{len(self._names)}")

    def reserve(self, name: str) -> str:
        """Return a name for a rule that refers to itself; :meth:`define` it."""
        reserved = f"{name}_r{len(self._recursive)}"
        self._recursive[reserved] = quoted("")
        return reserved

    def define(self, name: str, body: str) -> None:
        """Say what a reserved name stands for."""
        self._recursive[name] = body

    def add_part(self, part: Constraint) -> str:
        """Add a part and return what refers to it."""
        return self._parts.setdefault(part, f"@part{len(self._parts)}")

    @property
    def parts(self) -> tuple[Constraint, ...]:
        """All parts, in the order of their numbers."""
        return tuple(self._parts)

    def text(self, start: str) -> str:
        """Return the whole grammar."""
        lines = [f"start: {start or quoted('')}"]
        lines += [f"{name}{attributes}: {body}" for (attributes, body), name in self._names.items()]
        lines += [f"{name}: {body}" for name, body in self._recursive.items()]
        return "\n".join([*lines, r"WS: /[ \t\r\n]{1,24}/", ""])


def quoted(text: str) -> str:
    """Return the Lark string that matches ``text``. Its escapes are those of JSON, and more characters need one."""
    written = json.dumps(text, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def one_of(choices: Sequence[str]) -> str:
    """Return what matches one of ``choices``."""
    return choices[0] if len(choices) == 1 else f"({' | '.join(choices)})"


def sequence(*parts: str) -> str:
    """Return what matches the parts one after the other; empty ones are left out."""
    return " ".join(part for part in parts if part)


def optional(part: str) -> str:
    """Return what matches a part or nothing; "" stays empty."""
    return f"({part})?" if part else ""


def _piece(spelling: str, token: int | None) -> str:
    return quoted(spelling) if token is None else f"<[{token}]>"
