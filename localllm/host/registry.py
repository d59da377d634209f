"""All models by name: the only door through which requests reach a loaded model."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from localllm.contract.backend import BackendSpec, ModelClient
from localllm.contract.errors import LocalLLMError, ModelUnsupportedError, UnavailableError
from localllm.contract.events import Event
from localllm.contract.model import FITTING_KINDS, USUAL_MODES, Mode, ModelKind, ModelSpec
from localllm.host.client import ClientLimits
from localllm.host.fitting import load_fitting
from localllm.host.launch import LaunchSettings
from localllm.host.lifecycle import ModelLifecycle
from localllm.host.loader import Loaded, LoaderSettings, ModelLoader
from localllm.host.memory import automatic_limit_bytes, estimated_bytes
from localllm.host.residency import Limits, ModelKey
from localllm.host.room import Room, RoomLimits
from localllm.host.safe_mode import SafeModeMemory
from localllm.host.states import ModelStatus
from localllm.host.stay import Stay
from localllm.host.supervisor import Breaker, BreakerPolicy
from localllm.transport.launch import WORKER_ARGV

UNLOAD_DEADLINE_SECONDS = 30.0
_LONGEST_SLEEP_SECONDS = 30.0
_SHORTEST_SLEEP_SECONDS = 0.5
_LISTED_IN_ERRORS = 20

_logger = logging.getLogger("localllm.host")

_WORK: Mapping[ModelKind, str] = {
    ModelKind.CHAT: "write text",
    ModelKind.EMBEDDING: "give embeddings",
    ModelKind.RERANKER: "rank documents",
}


class Catalogue(Protocol):
    """The models that there are."""

    @property
    def default(self) -> str | None:
        """Id of the model that answers when a request names none."""
        ...

    def specs(self) -> Mapping[str, ModelSpec]:
        """Return all models by id."""
        ...

    def resolve(self, name: str | None, kind: ModelKind) -> ModelSpec:
        """Return the model that a name means; None is the default for what models of ``kind`` are for.

        Raises ``ModelNotFoundError`` with the known ids.
        """
        ...


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Limits of all models. ``idle_unload_seconds`` 0: never. ``state_dir``: for what is remembered of native builds.

    ``max_loaded`` 0: any number. ``memory_limit_bytes`` 0: 80 % of the machine's memory, which one model alone may
    exceed. ``patience_seconds`` is how long newer requests for a loaded model go before one that needs its room.
    ``worker_argv`` and ``extra_environment`` are for tests, which run scripted workers and factories of their own.
    """

    state_dir: Path
    idle_unload_seconds: float = 1800.0
    load_timeout_seconds: float = 600.0
    hang_timeout_seconds: float = 300.0
    max_queue: int = 256
    stop_seconds: float = 5.0
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
        self._lifecycles: dict[ModelKey, ModelLifecycle] = {}
        self._idle_changed = asyncio.Event()
        self._pause_seconds = 0.0  # that run() makes just now
        self._draining = False
        self.preloading: list[str] = []
        self.room = Room(_room_limits(settings), clock, self._lifecycles)

    # --- what plugins see ---

    def resolve(self, name: str | None, mode: Mode, purpose: ModelKind | None = None) -> ModelSpec:
        """Return the model that ``name`` means and that is fit for ``purpose``, as ``ModelAccess`` says.

        Raises ``ModelNotFoundError`` or ``ModelUnsupportedError``.
        """
        if purpose is None and mode is Mode.GENERATE:
            purpose = ModelKind.CHAT
        spec = self._catalogue.resolve(name, purpose or ModelKind.EMBEDDING)
        backend = self._backends.get(spec.backend)
        if backend is None:
            enabled = ", ".join(sorted(self._backends)) or "none"
            message = (
                f"Model {spec.id!r} needs the engine {spec.backend!r}, which no enabled plugin brings. "
                f"Enabled engines: {enabled}."
            )
            raise ModelUnsupportedError(message, param="model")
        if purpose is not None and spec.kind not in FITTING_KINDS[purpose]:
            reason = f"is of kind {spec.kind.value!r} and can't {_WORK[purpose]}."
        elif (why := self._why_not(spec, mode)) is not None:
            reason = f"can't be loaded to {mode.value}: {why}."
        else:
            return spec
        message = f"Model {spec.id!r} {reason} {self._alternatives(mode, purpose)}"
        raise ModelUnsupportedError(message, param="model")

    @asynccontextmanager
    async def acquire(
        self, name: str | None, mode: Mode, *, autoload: bool = True, ttl_seconds: float | None = None
    ) -> AsyncIterator[ModelClient]:
        """Load the model if need be and keep it loaded inside the ``async with``. As ``ModelAccess`` says."""
        lifecycle = self._open_door(name, mode)
        client = await lifecycle.enter(autoload=autoload)
        try:
            yield client
        finally:
            lifecycle.leave(ttl_seconds)

    def list_specs(self) -> list[ModelSpec]:
        """Return all models, the default one first."""
        default = self._catalogue.default
        return sorted(self._catalogue.specs().values(), key=lambda spec: spec.id != default)

    # --- what the server sees ---

    def status(self) -> list[ModelStatus]:
        """Return the state of every model that was asked for since the start."""
        return [lifecycle.status() for lifecycle in self._lifecycles.values()]

    async def load(
        self, name: str | None, mode: Mode, *, ttl_seconds: float | None = None, pinned: bool | None = None
    ) -> None:
        """Load a model, or find it loaded, and note how long it is to stay: until it is unloaded.

        ``ttl_seconds`` as in the configuration (0: for ever); a ``pinned`` one is never let go for another. None says
        nothing. Raises what :meth:`acquire` does.
        """
        lifecycle = self._open_door(name, mode)
        await lifecycle.enter()
        lifecycle.stay.ask_at_load(ttl_seconds, pinned)
        lifecycle.leave()

    async def unload(
        self,
        name: str | None,
        mode: Mode = Mode.GENERATE,
        *,
        deadline_seconds: float = UNLOAD_DEADLINE_SECONDS,
        force: bool = False,
    ) -> bool:
        """Let a model go after its requests in flight; return False when it is not loaded.

        At the deadline ``force`` ends what is left, and else the model stays: raises ``ModelBusyError``.
        """
        spec = self.resolve(name, mode)
        return await self._lifecycle(spec, mode).unload("request", deadline_seconds, force=force)

    async def preload(self, names: Sequence[str | None]) -> None:
        """Load these models (None: the default one) one after the other. What fails is in the log and stops nothing.

        ``preloading`` names those that are still to come.
        """
        self.preloading = ["the default model" if name is None else name for name in names]
        for name in names:
            try:
                spec = self._catalogue.resolve(name, ModelKind.CHAT)
                await self.load(spec.id, USUAL_MODES[spec.kind])
            except LocalLLMError as error:
                _logger.warning("models.preload: %s", error.message)
            self.preloading.pop(0)

    def reconfigure(self, catalogue: Catalogue, settings: RegistrySettings) -> None:
        """Take another configuration. What is loaded stays, and goes by the new times and limits from now on.

        ``state_dir`` and ``breaker`` stay what they were; limits of a worker are those that it was started with.
        """
        self._catalogue = catalogue
        self._settings = settings
        self.max_queue = settings.max_queue
        self._loader = self._make_loader(settings)
        for lifecycle in self._lifecycles.values():
            lifecycle.stay.default_seconds = settings.idle_unload_seconds
        self.room.set_limits(_room_limits(settings))
        self._idle_changed.set()

    async def unload_idle(self) -> None:
        """Let every model go that nobody has used for its time; a busy one never."""
        await asyncio.gather(*(lifecycle.unload_if_expired() for lifecycle in self._lifecycles.values()))

    async def run(self) -> None:
        """Unload idle models until cancelled."""
        while True:
            self._pause_seconds = self._next_look_seconds()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_seconds):
                    await self._idle_changed.wait()
            self._idle_changed.clear()
            await self.unload_idle()

    async def drain(self, deadline_seconds: float) -> None:
        """Refuse new requests, let those under way finish until the deadline, then end all workers."""
        self._draining = True
        await asyncio.gather(*(lifecycle.shut_down(deadline_seconds) for lifecycle in self._lifecycles.values()))

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
        next_one = min((one.expires_in_seconds for one in self._lifecycles.values()), default=math.inf)
        return max(_SHORTEST_SLEEP_SECONDS, min(_LONGEST_SLEEP_SECONDS, next_one))

    def _why_not(self, spec: ModelSpec, mode: Mode) -> str | None:
        """Return why the model's engine can't load it so; None where it can, as far as is known without loading."""
        backend = self._backends[spec.backend]
        if mode not in backend.modes:
            return f"its engine {backend.name!r} does not do that"
        return None if backend.refuses is None else backend.refuses(spec, mode)

    def _alternatives(self, mode: Mode, purpose: ModelKind | None) -> str:
        """Return a sentence that names the models which can; those made for it come first."""
        kinds = list(ModelKind) if purpose is None else FITTING_KINDS[purpose]
        able = [
            spec.id
            for kind in kinds
            for spec in self._catalogue.specs().values()
            if spec.kind is kind and spec.backend in self._backends and self._why_not(spec, mode) is None
        ]
        if not able:
            return f"No model here can; put one into the models' folder {kinds[0].value}/."
        more = f" and {len(able) - _LISTED_IN_ERRORS} more" if len(able) > _LISTED_IN_ERRORS else ""
        return f"Models that can: {', '.join(able[:_LISTED_IN_ERRORS])}{more}."

    def _make_loader(self, settings: RegistrySettings) -> ModelLoader:
        limits = ClientLimits(settings.max_queue, settings.hang_timeout_seconds, stop_seconds=settings.stop_seconds)
        launch = LaunchSettings(limits, settings.load_timeout_seconds)
        workers = LoaderSettings(launch, settings.worker_argv, settings.extra_environment)
        return ModelLoader(workers, self._safe_modes, self.emit)

    def _open_door(self, name: str | None, mode: Mode) -> ModelLifecycle:
        spec = self.resolve(name, mode)
        if self._draining:
            message = "The server is shutting down and takes no more requests."
            raise UnavailableError(message)
        return self._lifecycle(spec, mode)

    def _lifecycle(self, spec: ModelSpec, mode: Mode) -> ModelLifecycle:
        key = spec.id, mode
        lifecycle = self._lifecycles.get(key)
        if lifecycle is None:
            breaker = Breaker(spec.id, self.clock, self._settings.breaker)
            stay = Stay(self._settings.idle_unload_seconds)
            lifecycle = ModelLifecycle(spec, mode, partial(self._load, key), breaker, stay, self)
            self._lifecycles[key] = lifecycle
        lifecycle.spec = spec
        return lifecycle

    async def _load(self, key: ModelKey, spec: ModelSpec) -> Loaded:
        backend = self._backends[spec.backend]
        return await load_fitting(
            spec,
            lambda changed: self._loader.load(changed, key[1], backend),
            partial(self._let_idle_go, key),
        )

    async def _let_idle_go(self, but: ModelKey) -> bool:
        """Make as much room for a load as there is; return whether any model was let go."""
        idle = [
            one for key, one in self._lifecycles.items() if key != but and one.is_idle and not one.occupancy().pinned
        ]
        leaving = {task for one in idle if (task := one.evict()) is not None}
        if leaving:
            await asyncio.wait(leaving)
        return bool(leaving)


def _room_limits(settings: RegistrySettings) -> RoomLimits:
    memory_bytes = settings.memory_limit_bytes or automatic_limit_bytes()
    limits = Limits(settings.max_loaded, memory_bytes, settings.patience_seconds)
    return RoomLimits(limits, strict=settings.memory_limit_bytes > 0)
