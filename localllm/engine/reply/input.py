"""What the readers of a reply read from: text that is still arriving, and markers that may be cut anywhere."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from typing import TypeVar

_T = TypeVar("_T")

Reading = Generator[None, None, _T]
"""A reader of the reply: it yields when it must know more text, and returns what it has read."""

NO = -1
MORE = -2

_BRACKET_SEAMS = re.compile(r"(?<=[\]>)])(?=[\[{(])|(?<=[\]})])(?=[<\[])")  # models put spaces there: "[TOOL_CALLS] ["


class Marker:
    """Text that marks something. Where it has white space, or a bracket of its own, any white space may stand."""

    __slots__ = ("_first", "_parts", "is_weak")

    def __init__(self, text: str) -> None:
        self._parts = tuple(part for word in text.split() for part in _BRACKET_SEAMS.split(word))
        self._first = self._parts[0] if self._parts else ""
        self.is_weak = (
            bool(self._parts) and not re.search(r"\w", text) and len(self._first) < 3
        )  # a bracket marks nothing amid prose

    def __bool__(self) -> bool:
        return bool(self._parts)

    def match(self, text: str, at: int) -> int:
        """Return where the marker that begins at ``at`` ends, or ``NO``, or ``MORE`` if the text ends before that."""
        if not self._parts:
            return NO
        for index, part in enumerate(self._parts):
            if index:
                at = past_space(text, at)
            if not text.startswith(part, at):
                return MORE if part.startswith(text[at : at + len(part)]) and len(text) - at < len(part) else NO
            at += len(part)
        return at

    def match_some(self, text: str, at: int) -> int:
        """Like ``match``, but the first part is enough where the others don't follow."""
        end = self.match(text, at)
        if end == NO and self._parts and text.startswith(self._first, at):
            end = at + len(self._first)
        return end

    def find(self, text: str, at: int) -> int:
        """Return where the first possible beginning of the marker lies, or the text's end."""
        while self._parts:
            at = text.find(self._first[0], at)
            if at < 0:
                return len(text)
            if self.match(text, at) != NO:
                return at
            at += 1
        return len(text)


class ReplyInput:
    """The text of one reply, read up to ``at``. What was read is dropped, if nobody may come back to it."""

    __slots__ = ("_kept_from", "_n_dropped", "at", "ended", "text")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.ended = False
        self._kept_from: int | None = None
        self._n_dropped = 0

    @property
    def position(self) -> int:
        """How many code points of the whole reply are read: those that were dropped, and those before ``at``."""
        return self._n_dropped + self.at

    def append(self, text: str) -> None:
        """Go on with ``text``."""
        n_dropped = self.at if self._kept_from is None else self._kept_from
        self.text = self.text[n_dropped:] + text
        self.at -= n_dropped
        self._n_dropped += n_dropped
        if self._kept_from is not None:
            self._kept_from = 0

    def keep(self) -> None:
        """Keep what is read from here on, so that ``rewind`` can come back."""
        self._kept_from = self.at

    def forget(self) -> None:
        """Keep nothing any more."""
        self._kept_from = None

    @property
    def n_kept(self) -> int:
        """How many characters were read since ``keep``."""
        return 0 if self._kept_from is None else self.at - self._kept_from

    def rewind(self, n_chars: int = 0) -> None:
        """Come back to ``n_chars`` behind where ``keep`` was called, if anything is kept; keep nothing any more."""
        if self._kept_from is not None:
            self.at = self._kept_from + n_chars
            self._kept_from = None

    def peek(self) -> Reading[str]:
        """Return the next character without reading it; "" at the reply's end."""
        while self.at >= len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.at]

    def skip_space(self) -> Reading[str]:
        """Read white space; return the next character as ``peek`` does."""
        while True:
            self.at = past_space(self.text, self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            yield

    def take(self, markers: Iterable[Marker]) -> Reading[Marker | None]:
        """Read the first of ``markers`` that stands here and return it; None if none does."""
        for marker in markers:
            end = marker.match(self.text, self.at)
            while end == MORE and not self.ended:
                yield
                end = marker.match(self.text, self.at)
            if end >= 0:
                self.at = end
                return marker
        return None

    def take_some(self, marker: Marker) -> Reading[bool]:
        """Read white space, and ``marker`` if it stands behind it; its first part is enough."""
        if not marker:
            return False
        yield from self.skip_space()
        end = marker.match_some(self.text, self.at)
        while end == MORE and not self.ended:
            yield
            end = marker.match_some(self.text, self.at)
        if end == MORE:
            end = len(self.text)  # the reply ends inside it
        self.at = max(end, self.at)
        return end >= 0


def past_space(text: str, at: int) -> int:
    """Return where the white space that begins at ``at`` ends."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def space_before(text: str, start: int, end: int) -> int:
    """Return where the white space begins that ``text[start:end]`` ends with."""
    while end > start and text[end - 1].isspace():
        end -= 1
    return end


def first_of(markers: Sequence[Marker], text: str, at: int) -> int:
    """Return where one of ``markers`` may begin for the first time, or the text's end."""
    return min((marker.find(text, at) for marker in markers), default=len(text))


def common_prefix(first: str, second: str) -> str:
    """Return the longest text that both begin with."""
    n_same = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    return min(first, second, key=len) if n_same is None else first[:n_same]


def common_suffix(first: str, second: str) -> str:
    """Return the longest text that both end with."""
    return common_prefix(first[::-1], second[::-1])[::-1]
