"""Turns arriving bytes into the progress that is shown: a few times a second, with a speed that does not jump about."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from localllm.contract.fetch import PullProgress, PullStatus

_REPORT_SECONDS = 0.2
_SPEED_SECONDS = 5.0

Report = Callable[[PullProgress], None]


@dataclass(slots=True)
class _Sample:
    at: float
    n_bytes: int


class Meter:
    """Counts the bytes of one pull. ``clock`` is monotonic, in seconds; ``report`` gets every moment that is shown."""

    def __init__(self, report: Report, clock: Callable[[], float]) -> None:
        self._report = report
        self._clock = clock
        self._progress = PullProgress(PullStatus.RESOLVING)
        self._samples: deque[_Sample] = deque()
        self._transferred_bytes = 0
        self._last_report = float("-inf")

    def show(
        self,
        status: PullStatus,
        *,
        file: str | None = None,
        model_id: str | None = None,
        total_bytes: int | None = None,
    ) -> None:
        """Begin the next stage; what is None stays as it was, except ``file``."""
        now = self._progress
        self._progress = replace(
            now,
            status=status,
            file=file,
            model_id=now.model_id if model_id is None else model_id,
            total_bytes=now.total_bytes if total_bytes is None else total_bytes,
        )
        self._tell()
        self._last_report = float("-inf")  # the first bytes of a stage are shown at once

    def expect(self, n_bytes: int) -> None:
        """Count the size of a file that was not known before."""
        self._progress = replace(self._progress, total_bytes=(self._progress.total_bytes or 0) + n_bytes)

    def add(self, n_bytes: int, *, transferred: bool = True) -> None:
        """Count bytes that are there now; ``transferred`` ones make up the speed. Negative: they were thrown away."""
        if not n_bytes:
            return
        self._progress = replace(self._progress, completed_bytes=self._progress.completed_bytes + n_bytes)
        if transferred and n_bytes > 0:
            self._transferred_bytes += n_bytes
        if self._clock() - self._last_report >= _REPORT_SECONDS:
            self._tell()

    def _tell(self) -> None:
        self._last_report = self._clock()
        self._report(replace(self._progress, speed=self._speed(self._last_report)))

    def _speed(self, now: float) -> float | None:
        """Return bytes per second over the last seconds; None before there is anything to divide."""
        samples = self._samples
        samples.append(_Sample(now, self._transferred_bytes))
        while len(samples) > 2 and now - samples[1].at > _SPEED_SECONDS:
            samples.popleft()
        first = samples[0]
        if now - first.at < _REPORT_SECONDS / 2 or self._transferred_bytes == first.n_bytes:
            return None
        return (self._transferred_bytes - first.n_bytes) / (now - first.at)


class SpeedFloor:
    """Notices a transfer that crawls: fewer than ``min_bytes_per_second`` over the last ``seconds``."""

    def __init__(self, min_bytes_per_second: float, seconds: float, clock: Callable[[], float]) -> None:
        self._floor_bytes = min_bytes_per_second * seconds
        self._seconds = seconds
        self._clock = clock
        self._begin = clock()
        self._n_bytes = 0

    def crawls(self, n_bytes: int) -> bool:
        """Count bytes that came; True once the time is over and too few did."""
        self._n_bytes += n_bytes
        now = self._clock()
        if now - self._begin < self._seconds:
            return False
        slow = self._n_bytes < self._floor_bytes
        self._begin, self._n_bytes = now, 0
        return slow
