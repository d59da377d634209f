"""Stop strings: found across token borders, and no character of one ever let out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopStrings:
    """The stop strings of a request, prepared for matching (Knuth, Morris, Pratt: one table of fallbacks each)."""

    patterns: tuple[str, ...]
    fallbacks: tuple[tuple[int, ...], ...]

    @staticmethod
    def prepare(stops: Sequence[str]) -> StopStrings:
        """Build the tables; empty strings are left out."""
        patterns = tuple(dict.fromkeys(stop for stop in stops if stop))
        return StopStrings(patterns, tuple(_fallbacks(pattern) for pattern in patterns))


def _fallbacks(pattern: str) -> tuple[int, ...]:
    """Return, for each prefix length k, the length of the longest proper prefix that is a suffix of ``pattern[:k]``."""
    table = [0, 0]
    for char in pattern[1:]:
        k = table[-1]
        while k and pattern[k] != char:
            k = table[k]
        table.append(k + (pattern[k] == char))
    return tuple(table)


class StopScanner:
    """Follows one text, character by character. The stop that is complete first wins, of several the longest."""

    def __init__(self, stops: StopStrings) -> None:
        self._stops = stops
        self._matched = [0] * len(stops.patterns)  # characters of each pattern that the text so far ends with

    @property
    def n_held(self) -> int:
        """How many characters at the end of the text may turn out to be the beginning of a stop string."""
        return max(self._matched, default=0)

    def feed(self, text: str) -> tuple[int, str] | None:
        """Go on with ``text``. When a stop string is complete, return how much of ``text`` that took, and the string.

        Not to be called again after that.
        """
        if not self._matched:
            return None
        for position, char in enumerate(text, 1):
            found = ""
            for index, pattern in enumerate(self._stops.patterns):
                table, k = self._stops.fallbacks[index], self._matched[index]
                while k and pattern[k] != char:
                    k = table[k]
                k += pattern[k] == char
                self._matched[index] = k
                if k == len(pattern) > len(found):
                    found = pattern
            if found:
                return position, found
        return None
