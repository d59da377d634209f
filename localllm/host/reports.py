"""What is told of an instance's life: in the log, and as events for plugins."""

from __future__ import annotations

import logging
from collections.abc import Callable

from localllm.contract.events import Event, ModelLoaded, ModelUnloaded, WorkerDied
from localllm.contract.model import ModelInfo
from localllm.host.process import WorkerExit

_logger = logging.getLogger("localllm.host")

Emit = Callable[[Event], None]


def report_ready(model_id: str, info: ModelInfo, seconds: float, emit: Emit) -> None:
    """Tell that it can be used, ``seconds`` after loading began."""
    _logger.info("%s is ready after %.1f s (context %d tokens)", model_id, seconds, info.context_length)
    for note in info.notes:
        _logger.info("%s: %s", model_id, note)
    emit(ModelLoaded(model_id, seconds))


def report_death(model_id: str, exit_: WorkerExit, emit: Emit) -> str:
    """Tell that its worker ended by itself; return the cause in a few words."""
    cause = exit_.cause if exit_.killed_for is None else f"{exit_.cause} ({exit_.explanation})"
    _logger.error("the worker of %s ended by %s; its last lines:\n%s", model_id, cause, exit_.stderr_tail)
    emit(WorkerDied(model_id, cause, exit_.last_line))
    return cause


def report_unloaded(model_id: str, reason: str, emit: Emit) -> None:
    """Tell that it was let go."""
    _logger.info("%s was unloaded (%s)", model_id, reason)
    emit(ModelUnloaded(model_id, reason))
