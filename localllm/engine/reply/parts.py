"""What a reply is made of, once it was read: thoughts, content and calls."""

from __future__ import annotations

from dataclasses import dataclass, field

from localllm.contract.generation import Region


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text of one region. It stands in the reply as it is, from the code point ``start`` on."""

    region: Region
    text: str
    start: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class CallPart:
    """A piece of the call ``index``: its first has the ``name``, the others None. All ``arguments`` joined are JSON."""

    index: int
    name: str | None
    arguments: str


Part = TextPart | CallPart


class NotACallError(Exception):
    """What looked like a call is none; nothing of it was reported yet, so it can be given back as text."""


class PartList:
    """Collects parts, neighbours of a kind joined."""

    def __init__(self) -> None:
        self.n_calls = 0
        self._parts: list[Part] = []

    def add_text(self, region: Region, text: str, start: int) -> None:
        """Go on with text of a region, which stands at ``start``; behind a marker another part begins."""
        last = self._parts[-1] if self._parts else None
        if isinstance(last, TextPart) and last.region == region and last.start + len(last.text) == start:
            self._parts[-1] = TextPart(region, last.text + text, last.start)
        elif text:
            self._parts.append(TextPart(region, text, start))

    def begin_call(self, name: str) -> None:
        """Begin another call."""
        self._parts.append(CallPart(self.n_calls, name, ""))
        self.n_calls += 1

    def add_arguments(self, text: str) -> None:
        """Go on with the arguments of the last call."""
        last = self._parts[-1] if self._parts else None
        if isinstance(last, CallPart) and last.index == self.n_calls - 1:
            self._parts[-1] = CallPart(last.index, last.name, last.arguments + text)
        elif text:
            self._parts.append(CallPart(self.n_calls - 1, None, text))

    def take(self) -> list[Part]:
        """Return what was collected since the last time."""
        parts, self._parts = self._parts, []
        return parts
