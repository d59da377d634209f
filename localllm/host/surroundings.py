"""What the life cycle of one model needs of the registry around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from localllm.contract.events import Event
from localllm.contract.model import Mode, ModelSpec
from localllm.host.room import Room


class Surroundings(Protocol):
    """The registry, as one of its models sees it. All on one event loop."""

    emit: Callable[[Event], None]
    clock: Callable[[], float]
    max_queue: int
    room: Room

    def estimate(self, spec: ModelSpec, mode: Mode) -> int:
        """Return the bytes that a model will take."""
        ...

    def idle_changed(self, expires_in_seconds: float) -> None:
        """Look again by then whether a model is to be let go for being idle."""
        ...
