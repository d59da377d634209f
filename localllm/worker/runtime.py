"""The worker's threads: one reads commands, one prepares prompts, one writes events, the main one steps the engine."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from localllm.contract.errors import LocalLLMError, ProtocolError
from localllm.contract.generation import Failed
from localllm.contract.wire import Cancel, Shutdown, Submit, WorkerEvent
from localllm.transport.codec import decode_to_worker
from localllm.transport.framing import ReadableStream, read_frame
from localllm.worker.discipline import Discipline
from localllm.worker.inbox import Arrival, Inbox, Prepared
from localllm.worker.outbox import Outbox
from localllm.worker.preparer import Preparer

EXIT_SOFTWARE = 70  # sysexits.h: EX_SOFTWARE
LEAVE_SECONDS = 5.0  # for noticing Shutdown, and for freeing the model; then the process ends whatever it is doing
FILING_SECONDS = 8.0  # for writing conversations to disk in between
_FLUSH_SECONDS = 1.0

PreparedT = TypeVar("PreparedT", bound=Prepared)


class CommandReader:
    """Reads the server's commands for as long as the process lives, and ends it when the pipe ends.

    It runs before the model is loaded: a server that goes away, or changes its mind, does not wait for a load.
    """

    def __init__(self, stream: ReadableStream, inbox: Inbox[Any], clock: Callable[[], float]) -> None:
        self._stream = stream
        self._inbox = inbox
        self._clock = clock
        self.serving = threading.Event()  # set once there is a model that wants to be closed
        self.leaving = threading.Event()  # set once the step thread has noticed that it is to be

    def run(self) -> None:
        """Read until the end (reader thread). Raises ``ProtocolError``."""
        while (payload := read_frame(self._stream)) is not None:
            match decode_to_worker(payload):
                case Submit() as submit:
                    self._inbox.submit(Arrival(submit, self._clock()))
                case Cancel(request_id=request_id):
                    self._inbox.cancel(request_id)
                case Shutdown():
                    self._leave()
                case other:
                    message = f"A {type(other).__name__} message came twice."
                    raise ProtocolError(message)
        os._exit(0)

    def _leave(self) -> None:
        if self.serving.is_set():
            self._inbox.shut_down()
            if self.leaving.wait(LEAVE_SECONDS):  # a step thread that hangs gets no more time than that
                time.sleep(FILING_SECONDS + LEAVE_SECONDS)  # it ends the process before this is over
        os._exit(0)


class Runtime(Generic[PreparedT]):
    """Serves one loaded model until ``Shutdown``. Commands are applied between two steps, cancels first.

    ``clock`` gives seconds that never go backwards.
    """

    def __init__(
        self,
        discipline: Discipline[PreparedT],
        inbox: Inbox[PreparedT],
        outbox: Outbox,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._loop = discipline.loop
        self._frame_seconds = discipline.frame_seconds
        self._clock = clock
        self._preparer = Preparer(discipline, inbox, outbox)
        self._events: list[tuple[str, WorkerEvent]] = []  # kept back for the next frame
        self._prefilled_tokens = 0
        self._next_frame_at = 0.0

    def run(self) -> None:
        """Step until ``Shutdown`` (the step thread, which is the main thread). What the engine raises comes out."""
        start_thread("intake", self._preparer.run)
        try:
            while self._apply_commands():
                if self._loop.has_work:
                    result = self._loop.step()
                    self._events += result.events
                    self._prefilled_tokens += result.prefilled_tokens
                # Whatever is kept back is sent before the loop waits for commands.
                if not self._loop.has_work or self._clock() >= self._next_frame_at:
                    self._send()
        finally:
            self._send()
            self._outbox.flush(_FLUSH_SECONDS)

    def _send(self) -> None:
        if self._events or self._prefilled_tokens:
            self._outbox.put(self._events, self._prefilled_tokens)
            self._events, self._prefilled_tokens = [], 0
            self._next_frame_at = self._clock() + self._frame_seconds

    def _apply_commands(self) -> bool:
        commands = self._inbox.take(block=not self._loop.has_work)
        for request_id in commands.cancels:
            self._loop.cancel(request_id)
        for request in commands.submits:
            try:
                self._loop.submit(request)
            except LocalLLMError as error:  # what the engine finds wrong with it
                self._outbox.put([(request.request_id, Failed(error.to_wire()))])
        return not commands.shutdown


def start_thread(name: str, target: Callable[[], None]) -> None:
    """Run ``target`` in a daemon thread; what it raises ends the process, since nothing works without it."""

    def guarded() -> None:
        try:
            target()
        except BrokenPipeError:
            os._exit(0)  # the server has gone
        except BaseException:  # noqa: BLE001 - the process ends, with the reason on stderr
            end_process_by_error()

    threading.Thread(target=guarded, name=name, daemon=True).start()


def end_process_by_error() -> None:
    """Print the current exception and end the process at once, without native destructors, which may hang or crash."""
    traceback.print_exc()
    sys.stderr.flush()
    os._exit(EXIT_SOFTWARE)
