"""Writes pieces of Lark grammars as llguidance reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

SpecialToken = Callable[[str], int | None]
"""Returns the id of the control token that is spelled like a text, or None if the vocabulary has none.

It must know those tokens that the constraint engine takes for special; their spelling alone does not match them.
"""

_TOKEN = re.compile(r"<[^<>\s]{1,64}>|\[[A-Z_/]{1,64}\]")
_ANY = r"/(.|\n)*/"


def no_special_token(_text: str) -> int | None:
    """Say of every text that it is none: for vocabularies without control tokens."""
    return None


class Marks:
    """Writes markers: control tokens by id, everything else quoted; each white space as it is, or as any or none."""

    def __init__(self, special_token: SpecialToken, *, is_exact: bool = True) -> None:
        self._special_token = special_token
        self._is_exact = is_exact

    def literal(self, text: str) -> str:
        """Return what matches ``text``; "" for an empty one."""
        if self._is_exact:
            return " ".join(self._pieces(text))
        words = re.split(r"(\s+)", text)
        return " ".join("WS?" if word.isspace() else " ".join(self._pieces(word)) for word in words if word)

    def up_to(self, close: str, rules: Rules) -> str:
        """Return what matches any text, possibly none, and the first ``close`` behind it."""
        core = close.strip()
        pieces = self._pieces(core)
        behind = close[close.find(core) + len(core) :]
        if pieces[0].startswith("<["):
            return _joined(_ANY, *pieces, self.literal(behind))
        text = rules.add("text", _ANY, attributes=f"[suffix={pieces[0]}]")
        return _joined(text, *pieces[1:], self.literal(behind))

    def _pieces(self, text: str) -> list[str]:
        pieces: list[str] = []
        plain = ""
        at = 0
        for found in _TOKEN.finditer(text):
            token = self._special_token(found[0])
            if token is None:
                continue
            plain += text[at : found.start()]
            pieces += [quoted(plain)] if plain else []
            pieces.append(f"<[{token}]>")
            plain, at = "", found.end()
        plain += text[at:]
        return pieces + ([quoted(plain)] if plain else [])


class Rules:
    """Collects the rules of a grammar; the same rule twice is one."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}

    def add(self, name: str, body: str, *, attributes: str = "") -> str:
        """Add a rule and return the name that it got."""
        return self._names.setdefault((attributes, body), f"{name}_{len(self._names)}")

    def add_named(self, name: str, body: str) -> str:
        """Add a rule that names itself, and return its name."""
        self._names[("", body)] = name
        return name

    def add_json(self, schema: object) -> str:
        """Add a rule for JSON by a schema and return its name."""
        return self.add("json", f"%json {json.dumps(schema)}")

    def text(self, start: str) -> str:
        """Return the whole grammar."""
        lines = [f"start: {start or quoted('')}"]
        lines += [f"{name}{attributes}: {body}" for (attributes, body), name in self._names.items()]
        return "\n".join([*lines, r"WS: /[ \t\r\n]{1,24}/", ""])


def quoted(text: str) -> str:
    """Return the Lark string that matches ``text``."""
    return json.dumps(text, ensure_ascii=False)


def one_of(choices: Sequence[str]) -> str:
    """Return what matches one of ``choices``."""
    return choices[0] if len(choices) == 1 else f"({' | '.join(choices)})"


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
