"""Keeps a model that fails again and again from being loaded again and again: a circuit breaker with back-off."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from localllm.contract.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """So many failures within the window open the breaker for the cool-down, which doubles each time, up to a limit."""

    failures: int = 3
    window_seconds: float = 60.0
    cool_down_seconds: float = 10.0
    max_cool_down_seconds: float = 300.0


class Breaker:
    """Counts the failed loads and crashes of one model. Closed: loads are tried at once. Open: they are refused.

    After the cool-down it is half-open: the next load is a probe, and one more failure opens it again for longer.
    ``clock`` is monotonic, in seconds.
    """

    def __init__(self, model_id: str, clock: Callable[[], float], policy: BreakerPolicy) -> None:
        self._model_id = model_id
        self._clock = clock
        self._policy = policy
        self._failed_at: deque[float] = deque()
        self._open_until = -math.inf
        self._openings = 0
        self._probing = False
        self._last_reason = ""

    def admit(self) -> None:
        """Let a load begin. Raises ``UnavailableError`` with the time to wait while the breaker is open."""
        now = self._clock()
        remaining = self._open_until - now
        if remaining > 0:
            seconds = math.ceil(remaining)
            message = (
                f"Model {self._model_id!r} failed {self._policy.failures} times in a row and rests; it is tried again "
                f"in {seconds} seconds. The last failure: {self._last_reason}"
            )
            raise UnavailableError(message, retry_after_seconds=seconds)
        self._forget_the_calm(now)
        self._probing = self._openings > 0

    def record_ready(self) -> None:
        """Note that a load went well. Earlier failures still count for as long as the window is."""
        self._probing = False

    def record_failure(self, reason: str) -> None:
        """Note a failed load or a crash."""
        now = self._clock()
        policy = self._policy
        self._last_reason = reason
        self._forget_the_calm(now)
        self._failed_at.append(now)
        if self._probing or len(self._failed_at) >= policy.failures:
            cool_down = min(policy.max_cool_down_seconds, policy.cool_down_seconds * 2**self._openings)
            self._open_until = now + cool_down
            self._openings += 1
            self._probing = False

    def _forget_the_calm(self, now: float) -> None:
        """Drop failures older than the window, and the back-off when it is over for longer than that."""
        window = self._policy.window_seconds
        while self._failed_at and self._failed_at[0] <= now - window:
            self._failed_at.popleft()
        if now - self._open_until > window:
            self._openings = 0
