"""All models by name: the only door through which requests reach a loaded model."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from localllm.contract.backend import BackendSpec, ModelClient
from localllm.contract.errors import LocalLLMError, UnavailableError
from localllm.contract.events import Event
from localllm.contract.model import USUAL_MODES, Mode, ModelInfo, ModelKind, ModelSpec
from localllm.host.client import ClientLimits
from localllm.host.fitting import load_fitting
from localllm.host.group import ModelGroup
from localllm.host.keeper import Keeper
from localllm.host.launch import LaunchSettings
from localllm.host.lifecycle import ModelLifecycle
from localllm.host.loader import Loaded, LoaderSettings, ModelLoader
from localllm.host.memory import automatic_limit_bytes, estimated_bytes
from localllm.host.residency import InstanceKey, Limits, ModelKey
from localllm.host.room import Room, RoomLimits
from localllm.host.safe_mode import SafeModeMemory
from localllm.host.states import ModelStatus
from localllm.host.stay import InstanceStay, Stay
from localllm.host.suitability import Catalogue, find_fitting
from localllm.host.supervisor import Breaker, BreakerPolicy
from localllm.transport.launch import WORKER_ARGV

UNLOAD_DEADLINE_SECONDS = 30.0
_LONGEST_SLEEP_SECONDS = 30.0
_SHORTEST_SLEEP_SECONDS = 0.5

_logger = logging.getLogger("localllm.host")


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Limits of all models. ``state_dir``: what is remembered of native builds, and what outlives workers.

    ``idle_unload_seconds`` 0: never. ``max_loaded`` 0: any number. ``memory_limit_bytes`` 0: 80 % of the machine's
    memory, which one model alone may exceed. ``patience_seconds`` is how long newer requests for a loaded model go
    before one that needs its room.
    ``worker_argv`` and ``extra_environment`` are for tests, which run scripted workers and factories of their own.
    """

    state_dir: Path
    idle_unload_seconds: float = 1800.0
    load_timeout_seconds: float = 600.0
    hang_timeout_seconds: float = 300.0
    max_queue: int = 256
    stop_seconds: float = 20.0
    max_loaded: int = 0
    memory_limit_bytes: int = 0
    patience_seconds: float = 5.0
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    worker_argv: tuple[str, ...] = WORKER_ARGV
    extra_environment: Mapping[str, str] = field(default_factory=dict)


class ModelRegistry:
    """Loads models on first use, keeps them while they are used, and lets idle ones go. Used on one event loop.

    ``clock`` is monotonic, in seconds. ``emit`` returns at once and never raises.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        backends: Mapping[str, BackendSpec],
        settings: RegistrySettings,
        emit: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        self.emit = emit
        self.clock = clock
        self.max_queue = settings.max_queue
        self._catalogue = catalogue
        self._backends = backends
        self._settings = settings
        self._safe_modes = SafeModeMemory(settings.state_dir / "safe_mode.json")
        self._loader = self._make_loader(settings)
        self._groups: dict[ModelKey, ModelGroup] = {}
        self._instances: dict[InstanceKey, ModelLifecycle] = {}
        self._keeper = Keeper(self._look_again, clock)
        self._idle_changed = asyncio.Event()
        self._pause_seconds = 0.0  # that run() makes just now
        self._draining = False
        self.preloading: list[str] = []
        self.room = Room(_room_limits(settings), clock, self._instances)

    # --- what plugins see ---

    def resolve(self, name: str | None, mode: Mode, purpose: ModelKind | None = None) -> ModelSpec:
        """Return the model that ``name`` means and that is fit for ``purpose``, as ``ModelAccess`` says.

        Raises ``ModelNotFoundError`` or ``ModelUnsupportedError``.
        """
        return find_fitting(name, mode, purpose, self._catalogue, self._backends)

    @asynccontextmanager
    async def acquire(
        self,
        name: str | None,
        mode: Mode,
        *,
        autoload: bool = True,
        ttl_seconds: float | None = None,
        affinity: int | None = None,
    ) -> AsyncIterator[ModelClient]:
        """Load the model if need be and keep it loaded inside the ``async with``. As ``ModelAccess`` says."""
        instance, client = await self._open_door(name, mode).enter(autoload=autoload, affinity=affinity)
        try:
            yield client
        finally:
            instance.leave(ttl_seconds)

    def list_specs(self) -> list[ModelSpec]:
        """Return all models, the default one first."""
        default = self._catalogue.default
        return sorted(self._catalogue.specs().values(), key=lambda spec: spec.id != default)

    def loaded(self, model_id: str) -> ModelInfo | None:
        """Return what loading brought to light, as ``ModelAccess`` says."""
        found = {one.mode: one.info for one in self.status() if one.id == model_id and one.info is not None}
        return found.get(Mode.GENERATE) or next(iter(found.values()), None)

    # --- what the server sees ---

    def status(self) -> list[ModelStatus]:
        """Return the state of every model that was asked for since the start."""
        return [group.status() for group in self._groups.values()]

    async def load(
        self, name: str | None, mode: Mode, *, ttl_seconds: float | None = None, pinned: bool | None = None
    ) -> None:
        """Load a model, or find it loaded, and note how long it is to stay: until it is unloaded.

        ``ttl_seconds`` as in the configuration (0: for ever); a ``pinned`` one is never let go for another. None says
        nothing. Raises what :meth:`acquire` does.
        """
        group = self._open_door(name, mode)
        instance, _ = await group.enter()
        group.stay.ask_at_load(ttl_seconds, pinned)
        instance.leave()
        self._keeper.look()  # all of its standing instances are wanted again

    async def unload(
        self,
        name: str | None,
        mode: Mode = Mode.GENERATE,
        *,
        deadline_seconds: float = UNLOAD_DEADLINE_SECONDS,
        force: bool = False,
    ) -> bool:
        """Let all instances of a model go after their requests in flight; return False when none is loaded.

        At the deadline ``force`` ends what is left, and else the model stays: raises ``ModelBusyError``.
        """
        spec = self.resolve(name, mode)
        return await self._group(spec, mode).unload("request", deadline_seconds, force=force)

    async def preload(self, names: Sequence[str | None]) -> None:
        """Load these models (None: the default one) one after the other, then what is always to be there.

        What fails is in the log and stops nothing. ``preloading`` names those that are still to come.
        """
        standing = [group.key[0] for group in self._look_again() if group.is_short]
        self.preloading = ["the default model" if name is None else name for name in names] + standing
        for name in names:
            try:
                spec = self._catalogue.resolve(name, ModelKind.CHAT)
                await self.load(spec.id, USUAL_MODES[spec.kind])
            except LocalLLMError as error:
                _logger.warning("models.preload: %s", error.message)
            self.preloading.pop(0)
        await self._keeper.begin()
        self.preloading = []

    def reconfigure(self, catalogue: Catalogue, settings: RegistrySettings) -> None:
        """Take another configuration. What is loaded stays, and goes by the new times and limits from now on.

        ``state_dir`` and ``breaker`` stay what they were; limits of a worker are those that it was started with.
        """
        self._catalogue = catalogue
        self._settings = settings
        self.max_queue = settings.max_queue
        self._loader = self._make_loader(settings)
        for group in self._groups.values():
            group.stay.default_seconds = settings.idle_unload_seconds
        self.room.set_limits(_room_limits(settings))
        self._idle_changed.set()

    async def unload_idle(self) -> None:
        """Let every instance go that nobody has used for its time; a busy one never.

        Nothing comes between the look at one and the closing of its door.
        """
        idle = [one.evict("idle") for one in self._instances.values() if one.expires_in_seconds <= 0]
        leaving = {task for task in idle if task is not None}
        if leaving:
            await asyncio.wait(leaving)

    async def run(self) -> None:
        """Unload idle models, and load what is always to be there, until cancelled."""
        while True:
            self._pause_seconds = self._next_look_seconds()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_seconds):
                    await self._idle_changed.wait()
            self._idle_changed.clear()
            self._keeper.look()
            await self.unload_idle()

    async def drain(self, deadline_seconds: float) -> None:
        """Refuse new requests, let those under way finish until the deadline, then end all workers."""
        self._draining = True
        await self._keeper.end()
        await asyncio.gather(*(group.shut_down(deadline_seconds) for group in self._groups.values()))

    async def close(self) -> None:
        """End all workers now; requests that are still open end with ``UnavailableError``. May be called twice."""
        await self.drain(0.0)

    # --- what life cycles see ---

    def estimate(self, spec: ModelSpec, mode: Mode) -> int:
        """Return the bytes that a model will take."""
        return estimated_bytes(spec, mode, self._backends[spec.backend])

    def idle_changed(self, expires_in_seconds: float) -> None:
        """Look again by then whether a model is to be let go for being idle."""
        if expires_in_seconds < self._pause_seconds:
            self._idle_changed.set()

    def _next_look_seconds(self) -> float:
        """Return when the next idle model goes; not too exactly, since clocks stop while machines sleep."""
        next_one = min((one.expires_in_seconds for one in self._instances.values()), default=math.inf)
        return max(_SHORTEST_SLEEP_SECONDS, min(_LONGEST_SLEEP_SECONDS, next_one))

    def _make_loader(self, settings: RegistrySettings) -> ModelLoader:
        limits = ClientLimits(settings.max_queue, settings.hang_timeout_seconds, stop_seconds=settings.stop_seconds)
        launch = LaunchSettings(limits, settings.load_timeout_seconds)
        workers = LoaderSettings(launch, settings.worker_argv, settings.extra_environment, str(settings.state_dir))
        return ModelLoader(workers, self._safe_modes, self.emit)

    def _open_door(self, name: str | None, mode: Mode) -> ModelGroup:
        spec = self.resolve(name, mode)
        if self._draining:
            message = "The server is shutting down and takes no more requests."
            raise UnavailableError(message)
        return self._group(spec, mode)

    def _group(self, spec: ModelSpec, mode: Mode) -> ModelGroup:
        group = self._groups.get((spec.id, mode))
        if group is None:
            breaker = Breaker(spec.id, self.clock, self._settings.breaker)
            stay = Stay(self._settings.idle_unload_seconds)
            group = ModelGroup(spec, mode, partial(self._make_instance, breaker), stay, self)
            self._groups[group.key] = group
        group.spec = spec
        return group

    def _make_instance(self, breaker: Breaker, spec: ModelSpec, key: InstanceKey, stay: InstanceStay) -> ModelLifecycle:
        instance = ModelLifecycle(spec, key, partial(self._load, key), breaker, stay, self)
        self._instances[key] = instance
        return instance

    def _look_again(self) -> list[ModelGroup]:
        """Return all models that were asked for, or of which instances are always to be there, as configured now."""
        specs = self._catalogue.specs()
        for spec in specs.values():
            mode = USUAL_MODES[spec.kind]
            if spec.min_instances and spec.backend in self._backends and mode in self._backends[spec.backend].modes:
                self._group(spec, mode)
        for group in self._groups.values():
            group.spec = specs.get(group.key[0]) or replace(group.spec, min_instances=0)
        return list(self._groups.values())

    async def _load(self, key: InstanceKey, spec: ModelSpec, spare: bool) -> Loaded:
        backend = self._backends[spec.backend]
        load = partial(self._loader.load, mode=key.mode, backend=backend)
        if spare:  # it is not worth what is done for one that is needed
            return await load(spec)
        return await load_fitting(spec, load, partial(self._let_idle_go, key))

    async def _let_idle_go(self, but: InstanceKey) -> bool:
        """Make as much room for a load as there is; return whether any model was let go."""
        idle = [
            one for key, one in self._instances.items() if key != but and one.is_idle and not one.occupancy().pinned
        ]
        leaving = {task for one in idle if (task := one.evict()) is not None}
        if leaving:
            await asyncio.wait(leaving)
        return bool(leaving)


def _room_limits(settings: RegistrySettings) -> RoomLimits:
    memory_bytes = settings.memory_limit_bytes or automatic_limit_bytes()
    limits = Limits(settings.max_loaded, memory_bytes, settings.patience_seconds)
    return RoomLimits(limits, strict=settings.memory_limit_bytes > 0)
