"""How loaded models are shown: use, memory and time left, in ``GET /v1/models``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from localllm.server.arriving_models import Arriving
from localllm.server.model_host import InstanceState, ModelState
from localllm.server.model_objects import model_object
from localllm.server.pull_routes import progress_event

UNLOADED = "unloaded"
FAILED = "failed"
DOWNLOADING = "downloading"
_VALUES = {"ready": "loaded", "queued": "loading"}
"""llama-server's words, where it has others."""


def status_object(state: ModelState | None, all_states: Sequence[ModelState]) -> dict[str, Any]:
    """Return one model's ``status``: of the mode that ``state`` is of, and in ``modes`` of each that was asked for.

    ``value`` is "unloaded", "loading", "loaded", "draining" or "failed"; of a model that is not there yet, see
    :func:`arriving_object`. Times are in seconds, null where there is no
    end; memory is in bytes: ``total_bytes`` is what the model counts for, that is what was measured, or the estimate.
    What stands in ``instances`` is summed up beside it.
    """
    if state is None:
        return {"value": UNLOADED, "modes": []}
    return {**_describe(state), "modes": [_describe(one) for one in all_states]}


def arriving_object(arriving: Arriving) -> dict[str, Any]:
    """Return the object of a model whose file is on its way, or can't be had: its state and its ``status`` say so."""
    state = FAILED if arriving.pull is None else DOWNLOADING
    status: dict[str, Any] = {"value": state, "modes": []}
    if arriving.pull is not None:
        status["progress"] = progress_event(arriving.pull, arriving.pull.progress)
    if arriving.error is not None:
        status["error"] = arriving.error.message
    return {**model_object(arriving.spec, None), "state": state, "status": status}


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
        "instances": [_describe_instance(one) for one in state.instances],
    }


def _describe_instance(instance: InstanceState) -> dict[str, Any]:
    return {
        "number": instance.number,
        "value": _VALUES.get(instance.state, str(instance.state)),
        "in_flight": instance.in_flight,
        "waiting": instance.waiting,
        "expires_in_seconds": instance.expires_in_seconds,
        "loaded_for_seconds": instance.loaded_for_seconds,
        "worker_pid": instance.worker_pid,
        "memory_bytes": instance.memory_bytes,
        "error": instance.error,
    }


def n_loaded(state: ModelState | None) -> int:
    """Return how many instances of a model are loaded."""
    return 0 if state is None else sum(one.loaded_for_seconds is not None for one in state.instances)


def _memory(state: ModelState) -> Mapping[str, Any] | None:
    if state.memory_bytes is None:
        return None
    measured = None if state.info is None else state.info.memory
    return {
        "total_bytes": state.memory_bytes,
        "estimated_bytes": state.memory_estimated_bytes,
        "measured": None if measured is None else asdict(measured),
    }
