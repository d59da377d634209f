"""Who is next, where groups of requests can't share a step."""

from __future__ import annotations

from collections.abc import Iterable


class Turns:
    """Groups take turns: the one that was served longest ago goes first, and a new one goes last.

    So a group that stays is served after no more steps than there are groups, whoever comes and goes meanwhile.
    """

    def __init__(self) -> None:
        self._order: list[str] = []

    def order(self, present: Iterable[str]) -> list[str]:
        """Return the groups that are present in the order of their turns, and forget all others."""
        groups = dict.fromkeys(present)
        self._order = [group for group in self._order if group in groups]
        self._order += [group for group in groups if group not in self._order]
        return list(self._order)

    def serve(self, group: str) -> None:
        """Note that a group had its turn."""
        self._order.remove(group)
        self._order.append(group)
