"""The life of one model in one mode: loaded once however many wait, counted while used, let go when nobody does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from localllm.contract.backend import ModelClient
from localllm.contract.errors import LocalLLMError, ModelLoadError, OverloadedError, UnavailableError
from localllm.contract.events import Event, ModelLoaded, ModelUnloaded, WorkerDied
from localllm.contract.model import Mode, ModelSpec
from localllm.host.client import WorkerClient
from localllm.host.loader import Loaded
from localllm.host.process import WorkerExit
from localllm.host.states import ModelState, ModelStatus
from localllm.host.supervisor import Breaker

_logger = logging.getLogger("localllm.host")


class Surroundings(Protocol):
    """What a life cycle needs of the registry around it."""

    emit: Callable[[Event], None]
    clock: Callable[[], float]
    max_queue: int


class ModelLifecycle:
    """One model in one mode. Used on one event loop. ``spec`` may be replaced; the next load takes the new one."""

    def __init__(
        self,
        spec: ModelSpec,
        mode: Mode,
        load: Callable[[ModelSpec], Awaitable[Loaded]],
        breaker: Breaker,
        surroundings: Surroundings,
    ) -> None:
        self.spec = spec
        self._mode = mode
        self._load_model = load
        self._breaker = breaker
        self._around = surroundings
        self._state = ModelState.UNLOADED
        self._loaded: Loaded | None = None
        self._loaded_key: object = None
        self._loaded_at = 0.0
        self._used_at = 0.0
        self._in_flight = 0
        self._waiting = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._loading: asyncio.Task[LocalLLMError | None] | None = None
        self._unloading: asyncio.Task[None] | None = None
        self._refusing = False
        self._closed = False
        self._error: str | None = None

    # --- use ---

    async def enter(self) -> ModelClient:
        """Return the loaded model, loading it if need be, and count the caller until :meth:`leave`.

        Raises ``OverloadedError``, ``UnavailableError``, and what loading raises. A caller that is cancelled while it
        waits changes nothing for the others, nor for the load.
        """
        if self._refusing:
            raise self._going_away()
        if self._waiting + self._in_flight >= self._around.max_queue:
            message = (
                f"Model {self.spec.id!r} has {self._in_flight} requests running and {self._waiting} waiting, and takes "
                f"no more than {self._around.max_queue} (models.max_queue). Ask again in a moment."
            )
            raise OverloadedError(message)
        self._waiting += 1
        try:
            client = await self._ready_client()
            self._in_flight += 1
            self._unused.clear()
            return client
        finally:
            self._waiting -= 1

    def leave(self) -> None:
        """Undo one :meth:`enter`."""
        self._in_flight -= 1
        self._used_at = self._around.clock()
        if self._in_flight == 0:
            self._unused.set()

    def status(self) -> ModelStatus:
        """Return what is shown of it."""
        client = None if self._loaded is None else self._loaded.client
        worker = client if isinstance(client, WorkerClient) else None
        return ModelStatus(
            id=self.spec.id,
            kind=self.spec.kind,
            mode=self._mode,
            state=self._state,
            in_flight=self._in_flight,
            waiting=self._waiting,
            safe_mode=self._loaded is not None and self._loaded.safe_mode,
            info=None if client is None else client.info,
            loaded_for_seconds=None if client is None else self._around.clock() - self._loaded_at,
            worker_pid=None if worker is None else worker.pid,
            prefilled_tokens_total=0 if worker is None else worker.prefilled_tokens_total,
            error=self._error,
        )

    async def _ready_client(self) -> ModelClient:
        while not self._closed:
            if self._state is ModelState.READY and self._loaded is not None:
                if self._in_flight or self._loaded_key == _load_key(self.spec):
                    return self._loaded.client
                self._start_unloading("replaced", 0.0)
            if self._unloading is not None:
                await asyncio.wait({self._unloading})
                continue
            loading = self._loading or self._start_loading()
            await asyncio.wait({loading})
            failure = None if loading.cancelled() else loading.result()
            if failure is not None:
                raise LocalLLMError.from_wire(failure.to_wire())  # each its own: tracebacks grow on a raised exception
        raise self._going_away()

    def _going_away(self) -> UnavailableError:
        return UnavailableError(f"Model {self.spec.id!r} is shutting down, and the server with it.")

    # --- loading ---

    def _start_loading(self) -> asyncio.Task[LocalLLMError | None]:
        if self._refusing:
            raise self._going_away()
        self._breaker.admit()
        self._state = ModelState.LOADING
        self._loaded_key = _load_key(self.spec)
        self._loading = asyncio.create_task(self._load(self.spec), name=f"load {self.spec.id}")
        return self._loading

    async def _load(self, spec: ModelSpec) -> LocalLLMError | None:
        """Load, and return the failure instead of raising it: nobody may be waiting any more."""
        began_at = self._around.clock()
        try:
            self._become_ready(await self._load_model(spec), began_at)
        except LocalLLMError as error:
            return self._fail(error)
        except Exception as error:
            _logger.exception("loading %s failed", spec.id)
            return self._fail(ModelLoadError(f"Loading {spec.id!r} failed: {type(error).__name__}: {error}"))
        except asyncio.CancelledError:
            self._state = ModelState.UNLOADED
            raise
        finally:
            self._loading = None
        return None

    def _become_ready(self, loaded: Loaded, began_at: float) -> None:
        now = self._around.clock()
        self._loaded, self._loaded_at, self._used_at = loaded, now, now
        self._state = ModelState.READY
        self._error = None
        self._breaker.record_ready()
        info = loaded.client.info
        _logger.info("%s is ready after %.1f s (context %d tokens)", self.spec.id, now - began_at, info.context_length)
        for note in info.notes:
            _logger.info("%s: %s", self.spec.id, note)
        self._around.emit(ModelLoaded(self.spec.id, now - began_at))
        if isinstance(loaded.client, WorkerClient):
            loaded.client.exited.add_done_callback(lambda exited: self._on_exit(loaded, exited.result()))

    def _fail(self, error: LocalLLMError) -> LocalLLMError:
        self._state = ModelState.FAILED
        self._error = error.message
        self._breaker.record_failure(error.message)
        _logger.error("%s could not be loaded: %s", self.spec.id, error.message)
        return error

    def _on_exit(self, loaded: Loaded, exit_: WorkerExit) -> None:
        if self._loaded is not loaded:
            return  # it was let go
        self._loaded = None
        self._state = ModelState.FAILED
        cause = exit_.cause if exit_.killed_for is None else f"{exit_.cause} ({exit_.explanation})"
        self._error = f"its worker ended by {cause}"
        self._breaker.record_failure(f"{self._error}: {exit_.last_line}")
        _logger.error("the worker of %s ended by %s; its last lines:\n%s", self.spec.id, cause, exit_.stderr_tail)
        self._around.emit(WorkerDied(self.spec.id, cause, exit_.last_line))

    # --- letting go ---

    async def unload(self, reason: str, deadline_seconds: float) -> None:
        """Let nobody in, wait for those inside until the deadline, then end the worker. Joins one that is under way."""
        if self._unloading is None and self._state is ModelState.READY:
            self._start_unloading(reason, deadline_seconds)
        if self._unloading is not None:
            await asyncio.shield(self._unloading)

    async def unload_if_idle(self, limit_seconds: float) -> None:
        """Let it go if nobody has used it for so long. Nothing comes between the look and the closing of the door."""
        if self._state is not ModelState.READY or self._in_flight or self._waiting:
            return
        if self._around.clock() - self._used_at >= limit_seconds:
            await self.unload("idle", 0.0)

    def _start_unloading(self, reason: str, deadline_seconds: float) -> None:
        self._state = ModelState.DRAINING
        self._unloading = asyncio.create_task(self._drain(reason, deadline_seconds), name=f"unload {self.spec.id}")

    async def shut_down(self, deadline_seconds: float) -> None:
        """Refuse new callers at once; give those inside and those waiting until the deadline; then end everything."""
        self._refusing = True
        loop = asyncio.get_running_loop()
        deadline_at = loop.time() + deadline_seconds
        if self._loading is not None:
            await asyncio.wait({self._loading}, timeout=deadline_seconds)
        if self._loading is not None:
            self._closed = True
            self._loading.cancel()
            await asyncio.wait({self._loading})
        unloading = asyncio.create_task(self.unload("shutdown", max(0.0, deadline_at - loop.time())))
        await asyncio.wait({unloading}, timeout=max(0.0, deadline_at - loop.time()))
        self._closed = True
        self._unused.set()  # an unload that was under way with a later deadline
        await unloading

    async def _drain(self, reason: str, deadline_seconds: float) -> None:
        try:
            async with asyncio.timeout(deadline_seconds):
                await self._unused.wait()
        except TimeoutError:
            _logger.warning("%s is let go with %d requests unfinished", self.spec.id, self._in_flight)
        try:
            loaded, self._loaded = self._loaded, None
            if loaded is None:
                return  # it died meanwhile, and that has been reported
            await self._close(loaded.client)
            self._state = ModelState.UNLOADED
            _logger.info("%s was unloaded (%s)", self.spec.id, reason)
            self._around.emit(ModelUnloaded(self.spec.id, reason))
        finally:
            self._unloading = None

    async def _close(self, client: ModelClient) -> None:
        try:
            await client.close()
        except Exception:
            _logger.exception("the client of %s failed to close; it is let go all the same", self.spec.id)


def _load_key(spec: ModelSpec) -> object:
    """Return what a loaded model depends on: when it changes (a new file under the old name), it is loaded again."""
    return spec.backend, spec.path, spec.created, dict(spec.settings), dict(spec.meta)
