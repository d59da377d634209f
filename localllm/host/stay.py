"""How long one model stays loaded without being used, and whether it may be let go for another."""

from __future__ import annotations

import math

from localllm.contract.model import ModelSpec

FOR_EVER = math.inf


def seconds_or_for_ever(ttl_seconds: float) -> float:
    """Return a configured time; 0, or less, means for ever."""
    return ttl_seconds if ttl_seconds > 0 else FOR_EVER


class Stay:
    """What was asked for, most recent first: by the last request, by whoever loaded it, by its own configuration.

    What a request asked for holds until the next one; what was asked for at loading holds until it is unloaded.
    ``default_seconds`` is for models without a time of their own, 0: for ever.
    """

    def __init__(self, default_seconds: float) -> None:
        self.default_seconds = default_seconds
        self._at_load_seconds: float | None = None
        self._last_request_seconds: float | None = None
        self._pinned: bool | None = None

    def ask_at_load(self, ttl_seconds: float | None, pinned: bool | None) -> None:
        """Note what came with a request to load it; ``ttl_seconds`` as in the configuration, None: nothing said."""
        if ttl_seconds is not None:
            self._at_load_seconds = seconds_or_for_ever(ttl_seconds)
        if pinned is not None:
            self._pinned = pinned

    def ask_with_request(self, ttl_seconds: float | None) -> None:
        """Note what came with a request that used it: 0 lets it go at once, infinity never."""
        self._last_request_seconds = ttl_seconds

    def forget(self) -> None:
        """It was let go: what remains is its configuration."""
        self._at_load_seconds = self._last_request_seconds = self._pinned = None

    def is_pinned(self, spec: ModelSpec) -> bool:
        """Whether it stays when another model needs its room."""
        return spec.pinned if self._pinned is None else self._pinned

    def ttl_seconds(self, spec: ModelSpec) -> float:
        """Return how long it stays unused. A pinned one stays for ever unless it was given a time of its own."""
        for asked in (self._last_request_seconds, self._at_load_seconds):
            if asked is not None:
                return asked
        if spec.ttl_seconds is not None:
            return seconds_or_for_ever(spec.ttl_seconds)
        return FOR_EVER if self.is_pinned(spec) else seconds_or_for_ever(self.default_seconds)
