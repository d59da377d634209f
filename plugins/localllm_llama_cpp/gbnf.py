"""Reads llama.cpp's grammar format, in plain Python and with its size and depth capped, into a small syntax tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from .constraint_error import ConstraintError

MAX_SOURCE_BYTES = 64 * 1024
MAX_NESTING = 50  # parentheses in one another; 60,000 of them overflow the stack of llama.cpp's own parser
MAX_RULES = 1000
MAX_REPETITIONS = 2000  # llama-grammar.cpp, MAX_REPETITION_THRESHOLD
LAST_CODE_POINT = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Text:
    """A literal; may be empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Chars:
    """One code point in one of the ranges (first, last), or, negated, in none."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Ref:
    """Another rule."""

    name: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """One node after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several nodes."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A node, ``least`` to ``most`` times; None: any number of times."""

    item: Node
    least: int
    most: int | None


Node = Text | Chars | Ref | Sequence | Choice | Repeat

ANY_CHAR = Chars((), negated=True)

_TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n]|\#[^\r\n]*)+)
      | (?P<rule>(?P<rule_name>[A-Za-z0-9_-]++)[ \t\r\n]*+::=)
      | (?P<name>[A-Za-z0-9_-]++)
      | (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<chars>\[(?:[^\]\\]|\\.)*\])
      | \{\s*(?P<least>\d{1,9})\s*(?P<comma>,)?\s*(?P<most>\d{1,9})?\s*\}
      | (?P<mark>[|()*+?.])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}
_MARKS_REPEAT: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


@dataclass(slots=True)
class _Group:
    """A rule's body or a pair of parentheses while it is read."""

    options: list[Node] = field(default_factory=list)
    items: list[Node] = field(default_factory=list)

    def end_option(self) -> None:
        self.options.append(self.items[0] if len(self.items) == 1 else Sequence(tuple(self.items)))
        self.items = []

    def node(self) -> Node:
        self.end_option()
        return self.options[0] if len(self.options) == 1 else Choice(tuple(self.options))


def parse_gbnf(source: str) -> dict[str, Node]:
    """Return the rules of a grammar by name, ``root`` among them. Raises :class:`ConstraintError`.

    It keeps its own stack, so that no grammar can exhaust Python's, and gives up at the first parenthesis too many.
    """
    if len(source) > MAX_SOURCE_BYTES or len(source.encode(errors="replace")) > MAX_SOURCE_BYTES:
        message = f"The grammar is longer than {MAX_SOURCE_BYTES} bytes; shorten it."
        raise ConstraintError(message)
    rules = _Reader(source).read()
    if "root" not in rules:
        message = "The grammar has no rule 'root'; name the rule to begin with so."
        raise ConstraintError(message)
    for name, body in rules.items():
        for ref in references(body):
            if ref not in rules:
                message = f"The grammar's rule {name!r} uses {ref!r}, which it does not define."
                raise ConstraintError(message)
    return rules


def references(node: Node) -> Iterator[str]:
    """Yield the names of the rules that a node uses, some of them more than once."""
    stack = [node]
    while stack:
        at = stack.pop()
        if isinstance(at, Ref):
            yield at.name
        elif isinstance(at, Sequence):
            stack.extend(at.items)
        elif isinstance(at, Choice):
            stack.extend(at.options)
        elif isinstance(at, Repeat):
            stack.append(at.item)


class _Reader:
    """Turns the text of a grammar into rules. Line ends mean nothing: a rule goes on to the next ``NAME ::=``."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._rules: dict[str, Node] = {}
        self._name: str | None = None  # of the rule that is read
        self._groups: list[_Group] = []
        self._repeated: Node | None = None  # the node that the last token repeated

    def read(self) -> dict[str, Node]:
        for token in self._tokens():
            if token.lastgroup == "rule":
                self._end_rule(token.start())
                self._name, self._groups = token["rule_name"], [_Group()]
            elif self._name is None:
                raise self._error(token.start(), "a rule has to begin with 'NAME ::='")
            elif token.lastgroup == "name":
                self._groups[-1].items.append(Ref(token[0]))
            elif token.lastgroup == "mark":
                self._read_mark(token)
            elif token.lastgroup in ("text", "chars"):
                self._read_literal(token)
            else:
                self._repeat(token, *self._bounds(token))
        self._end_rule(len(self._source))
        return self._rules

    def _tokens(self) -> Iterator[re.Match[str]]:
        position = 0
        while position < len(self._source):
            token = _TOKEN.match(self._source, position)
            if token is None:
                raise self._error(position, self._why_unreadable(position))
            position = token.end()
            if token.lastgroup != "space":
                yield token

    def _why_unreadable(self, position: int) -> str:
        first = self._source[position]
        if first in "<!":
            return "tokens (<...>) are not supported; write their text as a literal"
        return {'"': "a literal is not closed", "[": "a character class is not closed"}.get(
            first, f"the character {first!r} has no meaning here"
        )

    def _read_mark(self, token: re.Match[str]) -> None:
        mark = token[0]
        if mark == "(":
            if len(self._groups) > MAX_NESTING:
                raise self._error(token.start(), f"more than {MAX_NESTING} parentheses are open")
            self._groups.append(_Group())
        elif mark == ")":
            if len(self._groups) == 1:
                raise self._error(token.start(), "a ')' has no '('")
            inner = self._groups.pop().node()
            self._groups[-1].items.append(inner)
            self._repeated = None
        elif mark == "|":
            self._groups[-1].end_option()
        elif mark == ".":
            self._groups[-1].items.append(ANY_CHAR)
        else:
            self._repeat(token, *_MARKS_REPEAT[mark])

    def _bounds(self, token: re.Match[str]) -> tuple[int, int | None]:
        least = int(token["least"])
        most = least if token["comma"] is None else None if token["most"] is None else int(token["most"])
        if max(least, most or 0) > MAX_REPETITIONS or (most is not None and most < least):
            raise self._error(token.start(), f"repetitions have to rise, and to at most {MAX_REPETITIONS}")
        return least, most

    def _repeat(self, token: re.Match[str], least: int, most: int | None) -> None:
        items = self._groups[-1].items
        if not items:
            raise self._error(token.start(), f"there is nothing to repeat before {token[0]!r}")
        if items[-1] is self._repeated:
            raise self._error(token.start(), f"{token[0]!r} repeats a repetition; put parentheses around that one")
        items[-1] = self._repeated = Repeat(items[-1], least, most)

    def _read_literal(self, token: re.Match[str]) -> None:
        inner = token[0][1:-1]
        items = self._groups[-1].items
        if token.lastgroup == "text":
            items.append(Text("".join(chr(point) for point, _ in self._code_points(inner, token.start()))))
            return
        negated = inner.startswith("^")
        points = list(self._code_points(inner[negated:], token.start()))
        ranges: list[tuple[int, int]] = []
        at = 0
        while at < len(points):
            first = last = points[at][0]
            if at + 2 < len(points) and points[at + 1] == (ord("-"), False):
                last = points[at + 2][0]
                at += 2
            if last < first:
                raise self._error(token.start(), f"the range {chr(first)!r} to {chr(last)!r} is empty")
            ranges.append((first, last))
            at += 1
        if not ranges and not negated:
            raise self._error(token.start(), "a character class is empty")
        items.append(Chars(tuple(ranges), negated))

    def _code_points(self, inner: str, start: int) -> Iterator[tuple[int, bool]]:
        """Yield (code point, whether it was escaped)."""
        at = 0
        while at < len(inner):
            if inner[at] != "\\":
                yield ord(inner[at]), False
                at += 1
                continue
            kind = inner[at + 1]
            n_digits = _HEX_ESCAPES.get(kind, 0)
            digits = inner[at + 2 : at + 2 + n_digits]
            if kind in _ESCAPES:
                yield ord(_ESCAPES[kind]), True
            elif n_digits and re.fullmatch(rf"[0-9A-Fa-f]{{{n_digits}}}", digits) and is_scalar(int(digits, 16)):
                yield int(digits, 16), True
            else:
                raise self._error(start, f"the escape {inner[at : at + 2 + n_digits]!r} is unknown")
            at += 2 + n_digits

    def _end_rule(self, position: int) -> None:
        if self._name is None:
            return
        if len(self._groups) > 1:
            raise self._error(position, f"a '(' of rule {self._name!r} is not closed")
        if self._name in self._rules:
            raise self._error(position, f"rule {self._name!r} is defined a second time")
        self._rules[self._name] = self._groups.pop().node()
        if len(self._rules) > MAX_RULES:
            raise self._error(position, f"there are more than {MAX_RULES} rules")

    def _error(self, position: int, reason: str) -> ConstraintError:
        line = self._source.count("\n", 0, position) + 1
        return ConstraintError(f"The grammar can't be read: in line {line}, {reason}.")


def is_scalar(point: int) -> bool:
    """Whether a number is a code point that a text can hold: not half of a surrogate pair, and not too large."""
    return point <= LAST_CODE_POINT and not 0xD800 <= point <= 0xDFFF
