"""How long one model stays loaded without being used, and whether it may be let go for another."""

from __future__ import annotations

import math
from collections.abc import Callable

from localllm.contract.model import USUAL_MODES, Mode, ModelSpec

FOR_EVER = math.inf


def seconds_or_for_ever(ttl_seconds: float) -> float:
    """Return a configured time; 0, or less, means for ever."""
    return ttl_seconds if ttl_seconds > 0 else FOR_EVER


def standing_instances(spec: ModelSpec, mode: Mode) -> int:
    """Return how many instances are always to be there: none in a mode that the model is not made for."""
    return spec.min_instances if mode is USUAL_MODES[spec.kind] else 0


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

    def ttl_seconds(self, spec: ModelSpec, *, pinned: bool) -> float:
        """Return how long it stays unused. A pinned one stays for ever unless it was given a time of its own."""
        for asked in (self._last_request_seconds, self._at_load_seconds):
            if asked is not None:
                return asked
        if spec.ttl_seconds is not None:
            return seconds_or_for_ever(spec.ttl_seconds)
        return FOR_EVER if pinned else seconds_or_for_ever(self.default_seconds)


class InstanceStay:
    """What a model's stay means for one of its instances. ``rank`` tells how many that stay come before it.

    The first ``min_instances`` stay whatever is asked for, until they are unloaded by hand. Of a pinned model the first
    one is pinned; those beside it go as those of other models do.
    """

    def __init__(self, model: Stay, mode: Mode, rank: Callable[[], int], is_last: Callable[[], bool]) -> None:
        self._model = model
        self._mode = mode
        self._rank = rank
        self._is_last = is_last

    def ask_with_request(self, ttl_seconds: float | None) -> None:
        """Note what came with a request that used the model."""
        self._model.ask_with_request(ttl_seconds)

    def forget(self) -> None:
        """The instance was let go; with the last one goes what was asked for."""
        if self._is_last():
            self._model.forget()

    def is_pinned(self, spec: ModelSpec) -> bool:
        """Whether it stays when another model needs its room."""
        rank = self._rank()
        return rank < standing_instances(spec, self._mode) or (rank == 0 and self._model.is_pinned(spec))

    def ttl_seconds(self, spec: ModelSpec) -> float:
        """Return how long it stays unused."""
        rank = self._rank()
        if rank < standing_instances(spec, self._mode):
            return FOR_EVER
        return self._model.ttl_seconds(spec, pinned=rank == 0 and self._model.is_pinned(spec))
