"""The life of one instance of a model: loaded once however many wait, counted while used, let go when nobody does."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from localllm.contract.backend import ModelClient
from localllm.contract.errors import LocalLLMError, ModelLoadError
from localllm.contract.model import ModelSpec
from localllm.host import refusals, reports
from localllm.host.instances import Instance
from localllm.host.loader import Loaded, close_client, load_key
from localllm.host.process import WorkerExit
from localllm.host.residency import InstanceKey, Use
from localllm.host.room import NoSpareRoomError, Occupancy
from localllm.host.states import ModelState, ModelStatus
from localllm.host.stay import InstanceStay
from localllm.host.supervisor import Breaker
from localllm.host.surroundings import Surroundings

_logger = logging.getLogger("localllm.host")


class ModelLifecycle:
    """One instance. Used on one event loop. ``spec`` may be replaced; the next load takes the new one.

    ``load`` gets the model, and whether the instance is one that others do without. ``breaker`` is shared by all.
    """

    def __init__(
        self,
        spec: ModelSpec,
        key: InstanceKey,
        load: Callable[[ModelSpec, bool], Awaitable[Loaded]],
        breaker: Breaker,
        stay: InstanceStay,
        surroundings: Surroundings,
    ) -> None:
        self.spec = spec
        self.key = key
        self._stay = stay
        self._load_model = load
        self._breaker = breaker
        self._around = surroundings
        self._room = surroundings.room
        self._state = ModelState.UNLOADED
        self._loaded: Loaded | None = None
        self._loaded_spec = spec
        self._loaded_at = self._used_at = 0.0
        self._estimated_bytes = 0
        self._in_flight = self._waiting = 0
        self._loading: asyncio.Task[LocalLLMError | None] | None = None
        self._abandoned: LocalLLMError | None = None
        self._unloading: asyncio.Task[bool] | None = None
        self._goes: asyncio.Future[bool] | None = None  # while draining: whether it goes in the end
        self._refusing = False
        self._error: str | None = None

    # --- use ---

    async def enter(self, *, autoload: bool = True) -> ModelClient:
        """Return the loaded model, loading it if need be, and count the caller until :meth:`leave`.

        Raises ``OverloadedError``, ``UnavailableError``, ``ModelNotLoadedError`` instead of loading where ``autoload``
        is false, and what loading raises. A caller that is cancelled while it waits changes nothing for the others,
        nor for a load that has begun; one that nobody waits for any more does not begin.
        """
        if self._refusing:
            raise refusals.going_away(self.spec.id)
        limit = self._around.max_queue
        if self._waiting + self._in_flight >= limit:
            raise refusals.queue_is_full(self.spec.id, self._in_flight, self._waiting, limit)
        if self._room.crowded:
            self._room.replan()  # whoever has waited for too long comes before us
        client = self._client_at_hand()
        if client is not None:
            self._in_flight += 1
            return client
        self._waiting += 1
        try:
            client = await self._ready_client(autoload=autoload)
            self._in_flight += 1
            return client
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._nobody_waits()

    def leave(self, ttl_seconds: float | None = None) -> None:
        """Undo one :meth:`enter`. ``ttl_seconds``: how long it stays from now on, 0 not at all, infinity for ever."""
        self._in_flight -= 1
        self._used_at = self._around.clock()
        self._stay.ask_with_request(ttl_seconds)
        if self._in_flight:
            return
        self._settle(goes=True)
        self._room.replan()
        if ttl_seconds == 0 and self.expires_in_seconds <= 0:
            self._start_unloading("idle")
        self._around.idle_changed(self.expires_in_seconds)

    @property
    def is_idle(self) -> bool:
        """Loaded, and neither used nor waited for."""
        return self._state is ModelState.READY and not self._in_flight and not self._waiting

    @property
    def expires_in_seconds(self) -> float:
        """Time until it has been idle for too long; infinity while it isn't idle, and for what stays for ever."""
        if not self.is_idle:
            return math.inf
        return self._used_at + self._stay.ttl_seconds(self.spec) - self._around.clock()

    def view(self) -> Instance:
        """Return what the choice among instances goes by."""
        parallel, outdated = 1 if self._loaded is None else self._loaded.client.info.parallel, self._is_outdated()
        usable = self._state is ModelState.READY and (self._in_flight > 0 or not outdated)
        return Instance(self.key.number, self._state, self._in_flight, self._waiting, parallel, usable, outdated)

    def occupancy(self) -> Occupancy:
        """Say how it is used just now."""
        arriving = self._waiting > 0 or self._state in (ModelState.QUEUED, ModelState.LOADING)
        use = Use.ARRIVING if arriving else Use.IN_USE if self._in_flight else Use.IDLE
        return Occupancy(use, self._used_at, self._stay.is_pinned(self.spec), self._state is ModelState.DRAINING)

    def status(self) -> ModelStatus:
        """Return what is shown of it."""
        loaded = self._loaded
        ttl, left = self._stay.ttl_seconds(self.spec), self.expires_in_seconds
        return ModelStatus(
            id=self.spec.id,
            kind=self.spec.kind,
            mode=self.key.mode,
            state=self._state,
            in_flight=self._in_flight,
            waiting=self._waiting,
            safe_mode=loaded is not None and loaded.safe_mode,
            info=None if loaded is None else loaded.client.info,
            loaded_for_seconds=None if loaded is None else self._around.clock() - self._loaded_at,
            worker_pid=None if loaded is None or loaded.worker is None else loaded.worker.pid,
            prefilled_tokens_total=0 if loaded is None else loaded.prefilled_tokens_total,
            error=self._error,
            pinned=self._stay.is_pinned(self.spec),
            ttl_seconds=None if math.isinf(ttl) else ttl,
            expires_in_seconds=None if math.isinf(left) else max(0.0, left),
            unused_for_seconds=self._around.clock() - self._used_at if self.is_idle else None,
            memory_estimated_bytes=self._estimated_bytes if self.key in self._room.held else None,
            memory_bytes=self._room.held.get(self.key),
            number=self.key.number,
        )

    def _is_outdated(self) -> bool:
        if self._loaded_spec is not self.spec and load_key(self._loaded_spec) == load_key(self.spec):
            self._loaded_spec = self.spec  # for the next time
        return self._loaded_spec is not self.spec

    def _nobody_waits(self) -> None:
        if self._state is ModelState.QUEUED and self._loading is not None:
            self._loading.cancel()
        elif self.is_idle:
            self._room.replan()

    def _client_at_hand(self) -> ModelClient | None:
        """Return the loaded model unless it must be loaded anew; one that changed goes once nobody uses it."""
        if self._state is not ModelState.READY or self._loaded is None:
            return None
        if self._in_flight or not self._is_outdated():
            return self._loaded.client
        self._start_unloading("replaced")
        return None

    async def _ready_client(self, *, autoload: bool) -> ModelClient:
        while True:
            client = self._client_at_hand()
            if client is not None:
                return client
            if self._unloading is not None:
                await asyncio.wait({self._unloading})
                continue
            if self._loading is None and not autoload:
                raise refusals.not_loaded(self.spec.id)
            loading = self._loading or self.start_loading()
            await asyncio.wait({loading})
            failure = None if loading.cancelled() else loading.result()
            if failure is not None:
                raise LocalLLMError.from_wire(failure.to_wire())  # each its own: tracebacks grow on a raised exception

    # --- loading ---

    def start_loading(self, *, spare: bool = False) -> asyncio.Task[LocalLLMError | None]:
        """Load an instance that is at rest, a ``spare`` one where only idle ones have to go for it.

        Raises ``UnavailableError`` when the model must not be tried again yet.
        """
        if self._refusing:
            raise refusals.going_away(self.spec.id)
        self._breaker.admit()
        self._state = ModelState.QUEUED
        self._loaded_spec = self.spec
        self._loading = asyncio.create_task(self._load(self.spec, spare), name=f"load {self.spec.id}")
        return self._loading

    async def _load(self, spec: ModelSpec, spare: bool) -> LocalLLMError | None:
        """Load, and return the failure instead of raising it: nobody may be waiting any more."""
        try:
            self._estimated_bytes = self._around.estimate(spec, self.key.mode)
            await self._room.reserve(self.key, self._estimated_bytes, spare=spare)
            self._state = ModelState.LOADING
            began_at = self._around.clock()
            self._become_ready(await self._load_model(spec, spare), began_at)
        except NoSpareRoomError:
            self._state = ModelState.UNLOADED
        except LocalLLMError as error:
            return self._fail(error)
        except Exception as error:
            _logger.exception("loading %s failed", spec.id)
            return self._fail(ModelLoadError(f"Loading {spec.id!r} failed: {type(error).__name__}: {error}"))
        except asyncio.CancelledError:
            self._state = ModelState.UNLOADED
            if self._abandoned is None:
                raise
            return self._abandoned
        finally:
            self._loading = self._abandoned = None
            if self._loaded is None:
                self._room.release(self.key)
        return None

    def _become_ready(self, loaded: Loaded, began_at: float) -> None:
        self._loaded, self._state, self._error = loaded, ModelState.READY, None
        self._loaded_at = self._used_at = now = self._around.clock()
        self._breaker.record_ready()
        info = loaded.client.info
        reports.report_ready(self.spec.id, info, now - began_at, self._around.emit)
        if loaded.worker is not None:
            loaded.worker.exited.add_done_callback(lambda exited: self._on_exit(loaded, exited.result()))
        if info.memory is not None:
            self._room.correct(self.key, info.memory.total_bytes)
        self._room.replan()
        self._around.idle_changed(self.expires_in_seconds)

    def _fail(self, error: LocalLLMError) -> LocalLLMError:
        """Note why it could not be loaded. That there is no room for it says nothing about the model itself."""
        self._error = error.message
        if self._state is ModelState.LOADING:
            self._breaker.record_failure(error.message)
        self._state = ModelState.FAILED
        _logger.error("%s could not be loaded: %s", self.spec.id, error.message)
        return error

    def _on_exit(self, loaded: Loaded, exit_: WorkerExit) -> None:
        if self._loaded is not loaded:
            return  # it was let go
        self._loaded = None
        self._state = ModelState.FAILED
        self._error = f"its worker ended by {reports.report_death(self.spec.id, exit_, self._around.emit)}"
        self._breaker.record_failure(f"{self._error}: {exit_.last_line}")
        self._settle(goes=True)
        self._room.release(self.key)
        self._around.idle_changed(0.0)  # another one may have to take its place

    # --- letting go ---

    async def unload(self, reason: str, deadline_seconds: float, *, force: bool = False) -> bool:
        """Let nobody in, wait for those inside until the deadline, then end the worker. Joins one that is under way.

        At the deadline ``force`` ends the requests that are left, and a load that is under way; else the model stays,
        and ``ModelBusyError`` is raised. Returns False when there was nothing to let go.
        """
        loop = asyncio.get_running_loop()
        end_at = loop.time() + deadline_seconds
        found = False
        while self._loading or self._unloading or self._state is ModelState.READY:
            found, is_load = True, self._loading is not None
            is_ours = not (self._loading or self._unloading)
            task = self._loading or self._unloading or self._start_unloading(reason)
            try:
                await asyncio.wait({task}, timeout=max(0.0, end_at - loop.time()))
                is_closing = self._goes is not None and self._goes.done()  # it is only the worker that is waited for
                if not (task.done() or force or is_closing):
                    raise refusals.still_in_use(self.spec.id, self._in_flight, deadline_seconds)
            except BaseException:
                if is_ours:
                    self._settle(goes=False)
                raise
            if not task.done():
                self._cut_off()
                await asyncio.wait({task})
                return True
            if not is_load and task.result():
                return True  # else: a load that is over, or a drain that another one gave up
        return found

    async def shut_down(self, deadline_seconds: float) -> None:
        """Refuse new callers at once; give those inside and those waiting until the deadline; then end everything."""
        self._refusing = True
        await self.unload("shutdown", deadline_seconds, force=True)

    def evict(self, reason: str = "evicted") -> asyncio.Task[bool] | None:
        """Take nobody in any more and go when the last request is over. Returns what to wait for."""
        return self._start_unloading(reason) if self._state is ModelState.READY else self._unloading

    def _start_unloading(self, reason: str) -> asyncio.Task[bool]:
        self._state = ModelState.DRAINING
        self._goes = asyncio.get_running_loop().create_future()
        if not self._in_flight:
            self._goes.set_result(True)
        self._unloading = asyncio.create_task(self._drain(reason, self._goes), name=f"unload {self.spec.id}")
        return self._unloading

    def _settle(self, *, goes: bool) -> None:
        """Decide a drain that is under way, if it is not decided yet."""
        if self._goes is not None and not self._goes.done():
            self._goes.set_result(goes)

    def _cut_off(self) -> None:
        """Wait no longer for a load or for requests."""
        if self._loading is not None:
            error = refusals.going_away if self._refusing else refusals.cut_off_while_loading
            self._abandoned = error(self.spec.id)
            self._loading.cancel()
        self._settle(goes=True)

    async def _drain(self, reason: str, goes: asyncio.Future[bool]) -> bool:
        """Return whether it was let go, once that is decided and done."""
        try:
            gone = await goes
            if self._loaded is None:
                return True  # it died meanwhile, and that has been reported
            if not gone:
                self._state = ModelState.READY
                return False
            await self._let_go(self._loaded, reason)
            return True
        finally:
            self._unloading = self._goes = None
            self._room.replan()

    async def _let_go(self, loaded: Loaded, reason: str) -> None:
        if self._in_flight:
            _logger.warning("%s is let go with %d requests unfinished", self.spec.id, self._in_flight)
        self._loaded = None
        await close_client(self.spec.id, loaded.client)
        self._state = ModelState.UNLOADED
        self._stay.forget()
        reports.report_unloaded(self.spec.id, reason, self._around.emit)
        self._room.release(self.key)
