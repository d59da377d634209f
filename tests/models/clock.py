"""A clock for catalogues that goes on when it is told to."""

from __future__ import annotations

from localllm.models.listing import SETTLE_SECONDS


class Clock:
    """Stands still until it is told to go on. Each look at it may take some time."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 100.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

    def settle(self) -> None:
        """Go on until no change can hide any longer in the same tick of the file system's clock as the one before."""
        self.now += SETTLE_SECONDS
