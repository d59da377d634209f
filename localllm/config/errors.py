"""The one exception of the configuration, and the search for what a misspelt name was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ConfigError(Exception):
    """A configuration that the server refuses to start with. ``problems`` has one sentence for each fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known dotted name that ``name`` is most likely a misspelling of, or None when none is near.

    Names of the same table come first, compared by their last part, for a long common beginning says nothing.
    """
    candidates = list(known)
    parent, _, last = name.rpartition(".")
    siblings = {candidate.rpartition(".")[2]: candidate for candidate in candidates if _parent(candidate) == parent}
    found = difflib.get_close_matches(last, list(siblings), n=1, cutoff=0.7)
    if found:
        return siblings[found[0]]
    by_last: dict[str, str] = {}
    for candidate in candidates:
        by_last.setdefault(candidate.rpartition(".")[2], candidate)
    found = difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.75)
    return by_last[found[0]] if found else None


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" or nothing, to be put behind an error about ``name``."""
    match = nearest(name, known)
    return f"; did you mean {match}?" if match else ""
