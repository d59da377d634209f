"""One worker process: start it, speak frames with it, keep its last words, learn of its death, and make it end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from localllm.contract.errors import ProtocolError
from localllm.contract.wire import FromWorker, Shutdown, ToWorker
from localllm.host.stderr_ring import LineLog, StderrRing
from localllm.transport.codec import decode_from_worker, encode_to_worker
from localllm.transport.framing import FrameReader, pack_frame
from localllm.transport.launch import WORKER_ARGV

_DRAIN_SECONDS = 0.5  # after a death: for what still lies in the pipes; a grandchild may hold them open for ever
_LINGER_SECONDS = 2.0  # a worker that closed a pipe gets this long to exit
_TERMINATE_SECONDS = 1.0
_REAP_SECONDS = 5.0

_logger = logging.getLogger("localllm.host")


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """What to run, with which environment (all of it), and the model's name for log lines."""

    name: str
    environment: Mapping[str, str]
    argv: tuple[str, ...] = WORKER_ARGV


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """How a worker ended. ``killed_for`` is why we killed it ("hang", "protocol", ...), with its sentence."""

    returncode: int  # negative: the signal's number, as in subprocess
    last_line: str = ""
    killed_for: str | None = None
    explanation: str = ""
    stderr_tail: str = field(default="", repr=False, compare=False)  # its last lines, for the log

    @property
    def signal_name(self) -> str | None:
        """The signal that ended it, by name."""
        if self.returncode >= 0:
            return None
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:  # a real-time signal
            return f"signal {-self.returncode}"

    @property
    def cause(self) -> str:
        """Signal or exit code, in a few words."""
        return self.signal_name or f"exit code {self.returncode}"


class WorkerProcess(asyncio.SubprocessProtocol):
    """The server's end of a worker. All methods are called on the event loop that it was started from.

    Its death is learned from the process itself, not from the end of a pipe: a grandchild may hold the pipes.
    ``exited`` is done once the process is reaped and its pipes are drained.
    """

    exited: asyncio.Future[WorkerExit]

    def __init__(self, name: str) -> None:
        self.on_message: Callable[[FromWorker], None] = _unexpected
        self._log = LineLog(_logger, name)
        self._stderr = StderrRing()
        self._frames = FrameReader()
        self._open_pipes = {1, 2}
        self._killed_for: tuple[str, str] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._giving_up: asyncio.Task[None] | None = None
        self._gone = False
        self._leaving = False

    @classmethod
    async def spawn(cls, command: WorkerCommand) -> WorkerProcess:
        """Start the process. Raises ``OSError``. When this is cancelled, no process is left either."""
        loop = asyncio.get_running_loop()
        worker = cls(command.name)
        worker.exited = loop.create_future()
        starting = loop.create_task(loop.subprocess_exec(lambda: worker, *command.argv, env=dict(command.environment)))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # An event loop whose starting of a process is cancelled kills it, but does not wait until it is gone. In a
            # task of its own, for we may be cancelled again.
            worker._giving_up = loop.create_task(worker._give_up(starting))
            await asyncio.shield(worker._giving_up)
            raise
        return worker

    @property
    def pid(self) -> int:
        """The process id."""
        return self._transport.get_pid()

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the worker has not taken from its pipe yet, beyond what the pipe itself holds."""
        return self._stdin.get_write_buffer_size()

    def send(self, message: ToWorker) -> None:
        """Queue a message. Raises ``ProtocolError``, before anything is sent, when it can't be written as a frame."""
        frame = pack_frame(encode_to_worker(message))
        if not self._gone and not self._stdin.is_closing():
            self._stdin.write(frame)

    def kill(self, killed_for: str, explanation: str) -> None:
        """Send SIGKILL; the first reason given is the one that ``exited`` tells."""
        if self._gone:
            return
        self._killed_for = self._killed_for or (killed_for, explanation)
        self._signal(self._transport.kill)

    async def abandon(self) -> None:
        """Kill a worker that is not to become ready any more, and wait until it is gone."""
        self.kill("load", "loading ended before it was ready")
        await self._exits_within(_REAP_SECONDS)

    async def stop(self, grace_seconds: float) -> None:
        """Say goodbye, then ask, then force; return when the process is reaped."""
        self.send(Shutdown())
        self._leaving = True
        if not self._gone:
            self._stdin.close()  # after what is queued has been written
        if await self._exits_within(grace_seconds):
            return
        self._signal(self._transport.terminate)
        if await self._exits_within(_TERMINATE_SECONDS):
            return
        self.kill("stop", "it did not leave when it was asked to")
        if not await self._exits_within(_REAP_SECONDS):
            _logger.error("worker process %d does not die; the kernel holds it in a system call", self.pid)

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take hold of the pipes."""
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Cut frames out of stdout, and keep the end of stderr."""
        if fd == 2:
            self._stderr.feed(data)
            self._log.feed(data)
            return
        if self._killed_for is not None:
            return
        try:
            for payload in self._frames.feed(data):
                self.on_message(decode_from_worker(payload))
        except ProtocolError as error:
            self.kill("protocol", error.message)

    def receive(self, message: FromWorker) -> None:
        """Hand on a message that came before its reader was there."""
        try:
            self.on_message(message)
        except ProtocolError as error:
            self.kill("protocol", error.message)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Finish a death that is known already, or wait for the one that this announces."""
        self._open_pipes.discard(fd)
        if self._gone:
            if not self._open_pipes:
                self._settle()
        elif fd == 1 or (fd == 0 and not self._leaving):
            self._after(
                _LINGER_SECONDS, lambda: self.kill("protocol", "it closed a pipe to the server and went on running")
            )

    def process_exited(self) -> None:
        """The process is reaped: wait a moment for what still lies in its pipes."""
        self._gone = True
        if self._open_pipes:
            self._after(_DRAIN_SECONDS, self._settle)
        else:
            self._settle()

    # ---

    async def _give_up(self, starting: asyncio.Task[Any]) -> None:
        await asyncio.wait({starting})
        if starting.exception() is None:
            await self.abandon()

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, call)

    def _settle(self) -> None:
        if self.exited.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        self._transport.close()
        returncode = self._transport.get_returncode()
        killed_for, explanation = self._killed_for or (None, "")
        ring = self._stderr
        exit_ = WorkerExit(returncode or 0, ring.telling_line(), killed_for, explanation, ring.last_lines())
        self.exited.set_result(exit_)

    def _signal(self, send: Callable[[], None]) -> None:
        with contextlib.suppress(ProcessLookupError):  # it died, and process_exited() is about to be called
            send()

    async def _exits_within(self, seconds: float) -> bool:
        done, _ = await asyncio.wait({self.exited}, timeout=seconds)
        return bool(done)


def _unexpected(message: FromWorker) -> None:
    text = f"A {type(message).__name__} message came before anything was asked."
    raise ProtocolError(text)
