"""How loaded models are shown: use, memory and time left, in ``GET /v1/models``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from localllm.server.model_host import ModelState

UNLOADED = "unloaded"
_VALUES = {"ready": "loaded", "queued": "loading"}
"""llama-server's words, where it has others."""


def status_object(state: ModelState | None, all_states: Sequence[ModelState]) -> dict[str, Any]:
    """Return one model's ``status``: of the mode that ``state`` is of, and in ``modes`` of each that was asked for.

    ``value`` is "unloaded", "loading", "loaded", "draining" or "failed". Times are in seconds, null where there is no
    end; memory is in bytes: ``total_bytes`` is what the model counts for, that is what was measured, or the estimate.
    """
    if state is None:
        return {"value": UNLOADED, "modes": []}
    return {**_describe(state), "modes": [_describe(one) for one in all_states]}


def _describe(state: ModelState) -> dict[str, Any]:
    return {
        "value": _VALUES.get(state.state, str(state.state)),
        "mode": state.mode.value,
        "in_flight": state.in_flight,
        "waiting": state.waiting,
        "pinned": state.pinned,
        "ttl_seconds": state.ttl_seconds,
        "expires_in_seconds": state.expires_in_seconds,
        "loaded_for_seconds": state.loaded_for_seconds,
        "worker_pid": state.worker_pid,
        "safe_mode": state.safe_mode,
        "memory": _memory(state),
        "error": state.error,
    }


def _memory(state: ModelState) -> Mapping[str, Any] | None:
    if state.memory_bytes is None:
        return None
    measured = None if state.info is None else state.info.memory
    return {
        "total_bytes": state.memory_bytes,
        "estimated_bytes": state.memory_estimated_bytes,
        "measured": None if measured is None else asdict(measured),
    }
