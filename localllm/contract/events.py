"""What plugins can watch: plain, serialisable records of things that happened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A worker is ready."""

    model: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """A worker was let go.

    ``reason`` is "idle", "evicted" (another model needed its room), "request", "replaced" (its file or settings
    changed) or "shutdown".
    """

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker ended by itself. ``cause`` names the signal or the exit code; ``last_line`` is from its stderr."""

    model: str
    cause: str
    last_line: str


@dataclass(frozen=True, slots=True)
class RequestFinished:
    """One request is over. Times are seconds, counts are tokens; None where it never came that far.

    ``finish`` is "stop", "length", "tool_calls", "cancelled", or the error's code; "ok" or "error" where nothing was
    generated.
    """

    request_id: str
    endpoint: str
    model: str | None
    status: int
    finish: str
    duration_seconds: float
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_seconds: float | None = None


Event = ModelLoaded | ModelUnloaded | WorkerDied | RequestFinished
