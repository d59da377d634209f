"""Turns a grammar of llama.cpp into one that llguidance matches, and that allows exactly the same texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .gbnf import Chars, Choice, Node, Ref, Repeat, Sequence, Text, parse_gbnf, references

MAX_REGEX_CHARS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Converted:
    """A regular expression or a Lark grammar."""

    kind: Literal["regex", "lark"]
    source: str


def convert_gbnf(source: str) -> Converted:
    """Return what matches the same texts as a grammar. Raises :class:`ConstraintError`.

    llguidance reads text by lexemes, each as long as can be: ``[a-z]* "end"``, written as two of them, would never
    match "the end". A grammar without recursion becomes one regular expression, which has no such edges and is quick.
    In any other grammar each code point becomes a lexeme of its own: none of those can be the beginning of another.
    """
    rules = parse_gbnf(source)
    order = _bottom_up(rules)
    if order is not None:
        regex = _Regex(rules, order).root
        if regex is not None:
            return Converted("regex", regex)
    return Converted("lark", _Lark(rules).text())


def _bottom_up(rules: Mapping[str, Node]) -> list[str] | None:
    """Return the rules that ``root`` needs, each after those that it uses; None when one uses itself."""
    done: dict[str, bool] = {}  # False while the rules that it uses are visited
    order: list[str] = []
    stack = ["root"]
    while stack:
        name = stack[-1]
        if name in done:
            stack.pop()
            if not done[name]:
                done[name] = True
                order.append(name)
            continue
        done[name] = False
        for used in references(rules[name]):
            if done.get(used) is False:
                return None
            if used not in done:
                stack.append(used)
    return order


class _Regex:
    """Writes rules that don't recur as one regular expression; ``root`` is None when it would be too long."""

    def __init__(self, rules: Mapping[str, Node], order: list[str]) -> None:
        self._written: dict[str, str] = {}
        self.root: str | None = None
        for name in order:
            if self._length(rules[name]) > MAX_REGEX_CHARS:
                return
            self._written[name] = self._write(rules[name])
        self.root = self._written["root"]

    def _length(self, node: Node) -> int:
        """Return at least how long a node gets, without writing it: rules that use rules may grow without bound."""
        if isinstance(node, Text):
            return len(node.text)
        if isinstance(node, Chars):
            return len(_regex_class(node))
        if isinstance(node, Ref):
            return len(self._written[node.name])
        if isinstance(node, Repeat):
            return self._length(node.item)
        return sum(map(self._length, node.items if isinstance(node, Sequence) else node.options))

    def _write(self, node: Node) -> str:
        """Return a node as it may stand in a sequence."""
        if isinstance(node, Text):
            return "".join(map(_regex_char, node.text))
        if isinstance(node, Chars):
            return _regex_class(node)
        if isinstance(node, Ref):
            return self._written[node.name]
        if isinstance(node, Sequence):
            return "".join(map(self._write, node.items))
        if isinstance(node, Choice):
            return f"(?:{'|'.join(map(self._write, node.options))})"
        return f"(?:{self._write(node.item)}){_count(node)}"


class _Lark:
    """Writes rules as a Lark grammar whose lexemes are single code points, and whose groups are rules too."""

    def __init__(self, rules: Mapping[str, Node]) -> None:
        self._names = {name: f"r{index}" for index, name in enumerate(rules)} | {"root": "start"}
        self._lines: list[str] = []
        for name, body in rules.items():
            self._lines.append(f"{self._names[name]}: {self._write(body)}")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _write(self, node: Node) -> str:
        """Return a node as it may stand in a sequence; what can't becomes a rule (nested groups are few in Lark)."""
        if isinstance(node, Text):
            return " ".join(f"/{_regex_char(char)}/" for char in node.text) or '""'
        if isinstance(node, Chars):
            return f"/{_regex_class(node)}/"
        if isinstance(node, Ref):
            return self._names[node.name]
        if isinstance(node, Sequence):
            return " ".join(map(self._write, node.items)) or '""'
        if isinstance(node, Choice):
            return self._as_rule(" | ".join(map(self._write, node.options)))
        return self._as_rule(self._write(node.item)) + _count(node)

    def _as_rule(self, body: str) -> str:
        name = f"g{len(self._lines)}"
        self._lines.append(f"{name}: {body}")
        return name


def _count(node: Repeat) -> str:
    if node.most is None:
        return {0: "*", 1: "+"}.get(node.least, f"{{{node.least},}}")
    return f"{{{node.least},{node.most}}}"


def _regex_char(char: str) -> str:
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):X}}}"


def _regex_class(node: Chars) -> str:
    if not node.ranges:
        return "(?s:.)"
    ranges = "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in node.ranges)
    return f"[{'^' if node.negated else ''}{ranges}]"
