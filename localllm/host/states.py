"""The states of a loaded model, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """Where one instance of a model stands; the picture above says what leads where."""

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
    is unused. ``memory_bytes`` is what it counts for: its estimate until it was measured. ``instances`` has one status
    for each instance that is not unloaded; what stands beside it sums them up.
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
    unused_for_seconds: float | None = None
    memory_estimated_bytes: int | None = None
    memory_bytes: int | None = None
    number: int = 0
    instances: tuple[ModelStatus, ...] = ()


_BEST_FIRST = (
    ModelState.READY,
    ModelState.LOADING,
    ModelState.QUEUED,
    ModelState.DRAINING,
    ModelState.FAILED,
    ModelState.UNLOADED,
)


def sum_up(instances: Sequence[ModelStatus], *, pinned: bool) -> ModelStatus:
    """Return the status of a model from those of its instances: state and facts of the one that fares best.

    Its time left is that of the instance that stays longest.
    """
    best = min(instances, key=lambda one: (_BEST_FIRST.index(one.state), one.number))
    loaded = [one for one in instances if one.info is not None]
    left = [one.expires_in_seconds for one in loaded]
    return replace(
        best,
        in_flight=sum(one.in_flight for one in instances),
        waiting=sum(one.waiting for one in instances),
        safe_mode=any(one.safe_mode for one in loaded),
        loaded_for_seconds=_most([one.loaded_for_seconds for one in loaded]),
        prefilled_tokens_total=sum(one.prefilled_tokens_total for one in loaded),
        pinned=pinned,
        expires_in_seconds=None if None in left else _most(left),
        memory_estimated_bytes=_total([one.memory_estimated_bytes for one in instances]),
        memory_bytes=_total([one.memory_bytes for one in instances]),
        number=0,
        instances=tuple(one for one in instances if one.state is not ModelState.UNLOADED),
    )


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _total(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
