"""The client of one worker: many requests over one pipe, each with its own bounded stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast, get_args

from localllm.contract.errors import (
    InvalidRequestError,
    LocalLLMError,
    OverloadedError,
    ProtocolError,
    SlowReaderError,
    UnavailableError,
    WorkerCrashedError,
)
from localllm.contract.generation import Failed, Finished, GenerateEvent, GenerateRequest
from localllm.contract.model import ModelInfo
from localllm.contract.pooling import PoolEvent, PoolFinished, PoolRequest
from localllm.contract.texts import TextRequest, TextResult
from localllm.contract.wire import Batch, Cancel, FromWorker, Submit, WorkerEvent
from localllm.host.event_buffer import (
    STREAM_BYTES,
    AnswerEvent,
    EventBuffer,
    pooled_answer_bytes,
    scored_prompt_bytes,
)
from localllm.host.process import WorkerExit, WorkerProcess
from localllm.host.watchdog import Watchdog

MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""Requests that the worker does not take from its pipe may pile up to this; then more are refused."""


Request = GenerateRequest | PoolRequest | TextRequest

_GENERATION_EVENTS = frozenset(get_args(GenerateEvent))
_POOL_EVENTS = frozenset(get_args(PoolEvent))
_TEXT_EVENTS = frozenset({TextResult})
_LAST_EVENTS = frozenset({Finished, PoolFinished, TextResult})


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """``max_queue`` is in requests, running and waiting; ``stream_bytes`` is what the reader of a text may be behind.

    ``stop_seconds`` is what a worker gets to leave by itself before it is made to: to write down its conversations
    too (``worker/runtime.py`` bounds that; a worker that hangs leaves sooner).
    """

    max_queue: int = 256
    hang_timeout_seconds: float = 300.0
    stream_bytes: int = STREAM_BYTES
    stop_seconds: float = 20.0


@dataclass(slots=True, eq=False)
class _Stream:
    """What one request has been answered and not read yet, and which events may answer it."""

    buffer: EventBuffer
    kinds: frozenset[type]


class WorkerClient:
    """A ``ModelClient`` for a worker that is ready. Used on one event loop.

    ``prefilled_tokens_total`` counts the prompt tokens that the worker has evaluated.
    """

    def __init__(self, model_id: str, process: WorkerProcess, info: ModelInfo, limits: ClientLimits) -> None:
        self.prefilled_tokens_total = 0
        self._model_id = model_id
        self._process = process
        self._info = info
        self._limits = limits
        self._streams: dict[str, _Stream] = {}
        self._n_requests = 0
        self._closing = False
        self._watchdog = Watchdog(limits.hang_timeout_seconds, self._on_hang)
        process.on_message = self._on_message
        process.exited.add_done_callback(self._on_exit)

    @property
    def info(self) -> ModelInfo:
        """What the worker said with ``Ready``."""
        return self._info

    @property
    def exited(self) -> asyncio.Future[WorkerExit]:
        """Done once the worker is gone, for whatever reason."""
        return self._process.exited

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def open_requests(self) -> int:
        """Requests that the worker has not finished."""
        return len(self._streams)

    def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        """Yield the events of one generation. Closing the iterator early, or cancelling its task, cancels it.

        Raises ``OverloadedError``, ``UnavailableError``, ``SlowReaderError``, ``WorkerCrashedError``, and whatever the
        worker finds wrong with the request.
        """
        room = self._limits.stream_bytes
        if request.prompt_logprobs is not None:
            room += scored_prompt_bytes(self._info.context_length, request.prompt_logprobs)
        stream = _Stream(EventBuffer(room), _GENERATION_EVENTS)
        return cast(AsyncIterator[GenerateEvent], self._ask(request, stream))

    def pool(self, request: PoolRequest) -> AsyncIterator[PoolEvent]:
        """Yield the events of one pooling request. Closing the iterator early, or cancelling its task, cancels it.

        Raises what :meth:`generate` does, but for ``SlowReaderError``: what is not read yet is kept, which is no more
        than the vectors that were asked for.
        """
        dimensions = self._info.pooling.dimensions if self._info.pooling is not None else 1
        stream = _Stream(EventBuffer(pooled_answer_bytes(len(request.inputs), dimensions)), _POOL_EVENTS)
        return cast(AsyncIterator[PoolEvent], self._ask(request, stream))

    async def convert(self, request: TextRequest) -> TextResult:
        """Return the answer to a request about texts. Cancelling its task cancels it in the worker.

        Raises what :meth:`generate` does, but for ``SlowReaderError``.
        """
        stream = _Stream(EventBuffer(), _TEXT_EVENTS)
        async with aclosing(self._ask(request, stream)) as events:
            return cast(TextResult, await anext(events))

    async def close(self) -> None:
        """Let the worker go. Open requests end with ``UnavailableError``. May be called twice."""
        self._closing = True
        self._fail_all(UnavailableError(f"Model {self._model_id!r} is shutting down. Ask again in a moment."))
        await self._process.stop(self._limits.stop_seconds)

    # --- requests ---

    async def _ask(self, request: Request, stream: _Stream) -> AsyncGenerator[AnswerEvent, None]:
        request_id = self._submit(request, stream)
        try:
            while True:
                event = await stream.buffer.next()
                yield event
                if type(event) in _LAST_EVENTS:
                    return
        finally:
            self._forget(request_id)

    def _submit(self, request: Request, stream: _Stream) -> str:
        self._check_open()
        self._n_requests += 1
        request_id = f"r{self._n_requests}"
        try:
            self._process.send(Submit(request_id, request))
        except ProtocolError as error:
            message = f"The request can't be passed on to the model: {error.message}"
            raise InvalidRequestError(message) from error
        self._streams[request_id] = stream
        if len(self._streams) == 1:
            self._watchdog.start()
        return request_id

    def _check_open(self) -> None:
        if self._closing:
            message = f"Model {self._model_id!r} is shutting down. Ask again in a moment."
            raise UnavailableError(message)
        if self.exited.done():
            raise self._crash_error(self.exited.result())
        waiting, unsent = len(self._streams), self._process.unsent_bytes
        if waiting >= self._limits.max_queue or unsent > MAX_UNSENT_BYTES:
            message = (
                f"Model {self._model_id!r} has {waiting} requests running and waiting, and takes no more than "
                f"{self._limits.max_queue} (models.max_queue). Ask again in a moment."
            )
            raise OverloadedError(message)

    def _forget(self, request_id: str) -> None:
        """Cancel a request unless it is over already. Idempotent."""
        if self._streams.pop(request_id, None) is not None:
            self._process.send(Cancel(request_id))
            self._stop_watching_when_idle()

    # --- what the worker says ---

    def _on_message(self, message: FromWorker) -> None:
        self._watchdog.reset()
        if not isinstance(message, Batch):
            text = f"A {type(message).__name__} message came from a worker that was ready already."
            raise ProtocolError(text)
        self.prefilled_tokens_total += message.prefilled_tokens
        for request_id, event in message.events:
            stream = self._streams.get(request_id)
            if stream is None:
                self._check_known(request_id)
            else:
                self._deliver(request_id, stream, event)

    def _deliver(self, request_id: str, stream: _Stream, event: WorkerEvent) -> None:
        if isinstance(event, Failed):
            self._end(request_id)
            stream.buffer.fail(LocalLLMError.from_wire(event.error))
            return
        if type(event) not in stream.kinds:
            text = f"A {type(event).__name__} event came for a request of another kind."
            raise ProtocolError(text)
        if type(event) in _LAST_EVENTS:
            self._end(request_id)
        if not stream.buffer.push(event):
            self._overflow(request_id, stream)

    def _overflow(self, request_id: str, stream: _Stream) -> None:
        if stream.kinds is _POOL_EVENTS:
            text = "More vectors came than were asked for."
            raise ProtocolError(text)
        self._forget(request_id)
        message = (
            f"The answer was read so slowly that more than {self._limits.stream_bytes} bytes of it piled up; "
            "it was cancelled. Read the stream as it comes."
        )
        stream.buffer.fail(SlowReaderError(message), drop=True)

    def _check_known(self, request_id: str) -> None:
        """Let pass what was under way when its request was cancelled; an id never given out is a broken worker."""
        number = request_id.removeprefix("r")
        if not (number.isascii() and number.isdigit() and int(number) <= self._n_requests):
            text = f"An event came for the unknown request {request_id[:64]!r}."
            raise ProtocolError(text)

    def _end(self, request_id: str) -> None:
        del self._streams[request_id]
        self._stop_watching_when_idle()

    def _stop_watching_when_idle(self) -> None:
        if not self._streams:
            self._watchdog.stop()

    # --- the end of the worker ---

    def _on_hang(self) -> None:
        seconds = self._limits.hang_timeout_seconds
        self._process.kill("hang", f"it owed answers and was silent for {seconds:g} seconds")

    def _on_exit(self, exited: asyncio.Future[WorkerExit]) -> None:
        self._watchdog.stop()
        self._fail_all(self._crash_error(exited.result()))

    def _fail_all(self, error: LocalLLMError) -> None:
        streams, self._streams = self._streams, {}
        self._watchdog.stop()
        for stream in streams.values():
            stream.buffer.fail(
                LocalLLMError.from_wire(error.to_wire())
            )  # each its own: tracebacks grow on a raised exception

    def _crash_error(self, exit_: WorkerExit) -> WorkerCrashedError:
        return crash_error(self._model_id, exit_)


def crash_error(model_id: str, exit_: WorkerExit) -> WorkerCrashedError:
    """Return the error of a request whose worker ended, naming the signal and the last telling line of its stderr."""
    detail: dict[str, object] = (
        {"exit_code": exit_.returncode} if exit_.signal_name is None else {"signal": exit_.signal_name}
    )
    if exit_.killed_for is not None:
        detail["cause"] = exit_.killed_for
        message = f"The worker of model {model_id!r} was killed: {exit_.explanation}"
    else:
        message = f"The worker of model {model_id!r} ended by {exit_.cause}"
        if exit_.last_line:
            message += f": {exit_.last_line}"
    return WorkerCrashedError(f"{message}. The next request loads the model again.", detail=detail)
