"""Starting a worker: spawn it, tell it what to load, and wait until it is ready, refuses, dies or takes too long."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from localllm.contract.errors import LocalLLMError, ModelLoadError, ProtocolError
from localllm.contract.wire import Batch, FromWorker, Hello, LoadFailed, Ready
from localllm.host.client import ClientLimits, WorkerClient
from localllm.host.process import WorkerCommand, WorkerExit, WorkerProcess


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """``load_timeout_seconds`` runs from the start of the process to ``Ready``."""

    limits: ClientLimits
    load_timeout_seconds: float = 600.0


class WorkerDiedLoadingError(Exception):
    """The worker ended before it said that it was ready."""

    def __init__(self, exit_: WorkerExit) -> None:
        super().__init__(exit_.cause)
        self.exit = exit_


async def launch_worker(command: WorkerCommand, hello: Hello, settings: LaunchSettings) -> WorkerClient:
    """Return the client of a worker that has loaded its model. When this raises, no process is left.

    Raises the ``LocalLLMError`` that the worker names, ``ModelLoadError``, or ``WorkerDiedLoadingError``.
    """
    try:
        process = await WorkerProcess.spawn(command)
    except OSError as error:
        message = f"The worker of model {command.name!r} could not be started ({command.argv[0]}): {error}."
        raise ModelLoadError(message) from error
    early: list[FromWorker] = []
    try:
        ready = await _shake_hands(process, hello, settings.load_timeout_seconds, early)
    except BaseException:
        await process.abandon()
        raise
    client = WorkerClient(command.name, process, ready.info, settings.limits)
    for told in early:
        process.receive(told)
    return client


async def _shake_hands(process: WorkerProcess, hello: Hello, timeout_seconds: float, early: list[FromWorker]) -> Ready:
    """Return what the worker says when it is ready. ``early`` gets what it says before anybody else listens."""
    answer: asyncio.Future[Ready | LoadFailed] = asyncio.get_running_loop().create_future()

    def on_message(message: FromWorker) -> None:
        if answer.done() and isinstance(message, Batch):  # it evaluates already what is to be preloaded
            early.append(message)
            return
        if answer.done() or not isinstance(message, Ready | LoadFailed):
            text = f"A {type(message).__name__} message came where Ready or LoadFailed was expected."
            raise ProtocolError(text)
        answer.set_result(message)

    process.on_message = on_message
    model_id = hello.load.model_id
    try:
        process.send(hello)
    except ProtocolError as error:
        message = f"The settings of model {model_id!r} can't be passed to its worker: {error.message}"
        raise ModelLoadError(message) from error
    waiting_for: set[asyncio.Future[Any]] = {answer, process.exited}
    await asyncio.wait(waiting_for, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    if answer.done():
        outcome = answer.result()
        if isinstance(outcome, LoadFailed):
            raise LocalLLMError.from_wire(outcome.error)
        return outcome
    if process.exited.done():
        raise WorkerDiedLoadingError(process.exited.result())
    message = (
        f"Model {model_id!r} was not ready after {timeout_seconds:g} seconds, and its worker was killed. "
        f"Raise models.load_timeout_seconds if it is big or the disk is slow."
    )
    raise ModelLoadError(message)
