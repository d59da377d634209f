"""The states of a loaded model, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from localllm.contract.model import Mode, ModelInfo, ModelKind

#              first request          room for it           Ready
#   UNLOADED ─────────────────▶ QUEUED ───────────▶ LOADING ─────────▶ READY ◀──────────────────┐
#      ▲ ▲                       │ ▲                  │                │ │ idle, evicted,       │ not empty
#      │ └───────────────────────┘ │ next request     │ failed,        │ │ unload, shutdown     │ in time
#      │      all waiters left     │ (breaker)        │ died           │ └───────────────▶ DRAINING
#      │                           │                  ▼                │ died                 │ │
#      │                           └─────────────── FAILED ◀───────────┘                      │ │ died
#      │                                              ▲                                       │ │
#      │                                              └───────────────────────────────────────┼─┘
#      └──────────────────────────────────────────────────────────────────────────────────────┘ nobody uses it any
#                                                                                               more, worker gone
# Busy is no state but a count: requests in flight.


class ModelState(StrEnum):
    """Where one model in one mode stands; the picture above says what leads where."""

    UNLOADED = "unloaded"
    QUEUED = "queued"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model in one mode, as ``/health``, ``/v1/models`` and metrics show it. Counts are requests.

    ``info`` and what follows it are None or 0 while it is not loaded; ``error`` is why the last load failed.
    ``ttl_seconds`` is how long it stays unused, None: for ever; ``expires_in_seconds`` what is left of that while it
    is unused. ``memory_bytes`` is what it counts for: its estimate until it was measured.
    """

    id: str
    kind: ModelKind
    mode: Mode
    state: ModelState
    in_flight: int
    waiting: int
    safe_mode: bool = False
    info: ModelInfo | None = None
    loaded_for_seconds: float | None = None
    worker_pid: int | None = None
    prefilled_tokens_total: int = 0
    error: str | None = None
    pinned: bool = False
    ttl_seconds: float | None = None
    expires_in_seconds: float | None = None
    memory_estimated_bytes: int | None = None
    memory_bytes: int | None = None
