"""All models by name: the only door through which requests reach a loaded model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from localllm.contract.backend import BackendSpec, ModelClient
from localllm.contract.errors import ModelUnsupportedError, UnavailableError
from localllm.contract.events import Event
from localllm.contract.model import FITTING_KINDS, Mode, ModelKind, ModelSpec
from localllm.host.client import ClientLimits
from localllm.host.launch import LaunchSettings
from localllm.host.lifecycle import ModelLifecycle
from localllm.host.loader import Loaded, LoaderSettings, ModelLoader
from localllm.host.safe_mode import SafeModeMemory
from localllm.host.states import ModelStatus
from localllm.host.supervisor import Breaker, BreakerPolicy
from localllm.transport.launch import WORKER_ARGV

UNLOAD_DEADLINE_SECONDS = 30.0
_LONGEST_SLEEP_SECONDS = 30.0
_SHORTEST_SLEEP_SECONDS = 0.5
_LISTED_IN_ERRORS = 20

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

    ``worker_argv`` and ``extra_environment`` are for tests, which run scripted workers and factories of their own.
    """

    state_dir: Path
    idle_unload_seconds: float = 1800.0
    load_timeout_seconds: float = 600.0
    hang_timeout_seconds: float = 300.0
    max_queue: int = 256
    stop_seconds: float = 5.0
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
        limits = ClientLimits(settings.max_queue, settings.hang_timeout_seconds, stop_seconds=settings.stop_seconds)
        launch = LaunchSettings(limits, settings.load_timeout_seconds)
        self._loader = ModelLoader(
            LoaderSettings(launch, settings.worker_argv, settings.extra_environment),
            SafeModeMemory(settings.state_dir / "safe_mode.json"),
            emit,
        )
        self._lifecycles: dict[tuple[str, Mode], ModelLifecycle] = {}
        self._draining = False

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
    async def acquire(self, name: str | None, mode: Mode) -> AsyncIterator[ModelClient]:
        """Load the model if need be and keep it loaded inside the ``async with``. Raises what ``ModelAccess`` says."""
        spec = self.resolve(name, mode)
        if self._draining:
            message = "The server is shutting down and takes no more requests."
            raise UnavailableError(message)
        lifecycle = self._lifecycle(spec, mode)
        client = await lifecycle.enter()
        try:
            yield client
        finally:
            lifecycle.leave()

    def list_specs(self) -> list[ModelSpec]:
        """Return all models, the default one first."""
        default = self._catalogue.default
        return sorted(self._catalogue.specs().values(), key=lambda spec: spec.id != default)

    # --- what the server sees ---

    def status(self) -> list[ModelStatus]:
        """Return the state of every model that was asked for since the start."""
        return [lifecycle.status() for lifecycle in self._lifecycles.values()]

    async def unload(
        self, name: str | None, mode: Mode = Mode.GENERATE, *, deadline_seconds: float = UNLOAD_DEADLINE_SECONDS
    ) -> None:
        """Let a model go, after its requests in flight or at the deadline. Nothing happens when it is not loaded."""
        spec = self.resolve(name, mode)
        await self._lifecycle(spec, mode).unload("request", deadline_seconds)

    async def unload_idle(self) -> None:
        """Let every model go that nobody has used for ``idle_unload_seconds``; a busy one never."""
        limit = self._settings.idle_unload_seconds
        if limit > 0:
            await asyncio.gather(*(lifecycle.unload_if_idle(limit) for lifecycle in self._lifecycles.values()))

    async def run(self) -> None:
        """Unload idle models until cancelled."""
        limit = self._settings.idle_unload_seconds
        pause = max(_SHORTEST_SLEEP_SECONDS, min(_LONGEST_SLEEP_SECONDS, limit / 10 or _LONGEST_SLEEP_SECONDS))
        while True:
            await asyncio.sleep(pause)
            await self.unload_idle()

    async def drain(self, deadline_seconds: float) -> None:
        """Refuse new requests, let those under way finish until the deadline, then end all workers."""
        self._draining = True
        await asyncio.gather(*(lifecycle.shut_down(deadline_seconds) for lifecycle in self._lifecycles.values()))

    async def close(self) -> None:
        """End all workers now; requests that are still open end with ``UnavailableError``. May be called twice."""
        await self.drain(0.0)

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

    def _lifecycle(self, spec: ModelSpec, mode: Mode) -> ModelLifecycle:
        lifecycle = self._lifecycles.get((spec.id, mode))
        if lifecycle is None:
            breaker = Breaker(spec.id, self.clock, self._settings.breaker)
            load = partial(self._load, mode)
            lifecycle = self._lifecycles[spec.id, mode] = ModelLifecycle(spec, mode, load, breaker, self)
        lifecycle.spec = spec
        return lifecycle

    async def _load(self, mode: Mode, spec: ModelSpec) -> Loaded:
        return await self._loader.load(spec, mode, self._backends[spec.backend])
