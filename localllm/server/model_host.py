"""What the server asks of the room that runs models: how they stand, and which one a name means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from localllm.context import ModelAccess
from localllm.contract.errors import LocalLLMError, ModelUnsupportedError
from localllm.contract.model import Mode, ModelInfo, ModelSpec
from localllm.models.file_names import fold


class _Standing(Protocol):
    """How something that can be loaded stands: what an instance and a model have in common."""

    @property
    def state(self) -> str:
        """The word for callers: unloaded, queued (for room), loading, ready, draining or failed."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests that use it."""
        ...

    @property
    def waiting(self) -> int:
        """Requests that wait for it to be loaded."""
        ...

    @property
    def expires_in_seconds(self) -> float | None:
        """Time until it goes; None while it is used, and for ever."""
        ...

    @property
    def loaded_for_seconds(self) -> float | None:
        """Time since it was ready; None while it isn't loaded."""
        ...

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id; None without a worker."""
        ...

    @property
    def memory_bytes(self) -> int | None:
        """What it counts for: what was measured, and else the estimate. None while it has no place."""
        ...

    @property
    def error(self) -> str | None:
        """Why the last load failed, or what it died of."""
        ...


class InstanceState(_Standing, Protocol):
    """One of the workers behind a model's name, loaded or about to be, or one that failed."""

    @property
    def number(self) -> int:
        """Tells it from the model's others."""
        ...

    @property
    def unused_for_seconds(self) -> float | None:
        """Time since its last request was over; None while it is used or isn't loaded."""
        ...


class ModelState(_Standing, Protocol):
    """One model in one mode that is loaded, or was asked for: what its instances make together."""

    @property
    def id(self) -> str:
        """The model's id."""
        ...

    @property
    def mode(self) -> Mode:
        """What it is, or was to be, loaded for."""
        ...

    @property
    def safe_mode(self) -> bool:
        """Loaded without what the build miscompiled; slower than it could be."""
        ...

    @property
    def info(self) -> ModelInfo | None:
        """What loading brought to light; None while it isn't loaded."""
        ...

    @property
    def pinned(self) -> bool:
        """It never goes to make room for another."""
        ...

    @property
    def ttl_seconds(self) -> float | None:
        """How long it stays unused; None: for ever."""
        ...

    @property
    def memory_estimated_bytes(self) -> int | None:
        """What it was expected to take."""
        ...

    @property
    def instances(self) -> Sequence[InstanceState]:
        """Its instances, but for those that are not loaded."""
        ...


class ModelHost(ModelAccess, Protocol):
    """The registry of models as the server uses it. Event loop only."""

    def status(self) -> Sequence[ModelState]:
        """Return the state of models; one that was never asked for may be missing."""
        ...

    @property
    def preloading(self) -> Sequence[str]:
        """The models that are still to be loaded because the server has just started."""
        ...

    async def preload(self, names: Sequence[str | None]) -> None:
        """Load these one after the other, None being the default one; failures are logged."""
        ...

    async def load(
        self, name: str | None, mode: Mode, *, ttl_seconds: float | None = None, pinned: bool | None = None
    ) -> None:
        """Load a model and return when it is ready.

        Until it is unloaded it stays for as long as is asked for here; ``ttl_seconds`` 0: for ever.
        Raises what ``acquire`` does.
        """
        ...

    async def unload(self, name: str | None, mode: Mode, *, deadline_seconds: float, force: bool = False) -> bool:
        """Let a model go when its requests are over; False when it wasn't loaded.

        Raises ``ModelBusyError`` at the deadline, unless ``force`` ends what is left.
        """
        ...

    async def run(self) -> None:
        """Unload what is idle, until cancelled."""
        ...

    async def close(self) -> None:
        """End all workers; bounded in time."""
        ...


def find_spec(models: ModelAccess, name: str) -> ModelSpec:
    """Return the model that a caller means by ``name``, whatever it is made for. Raises ``ModelNotFoundError``."""
    try:
        return models.resolve(name, Mode.GENERATE)
    except ModelUnsupportedError:
        specs = models.list_specs()
        names = {alias: spec for spec in specs for alias in spec.aliases} | {spec.id: spec for spec in specs}
        names = {fold(known): spec for known, spec in names.items()} | names  # the exact name counts first
        for known in (name, name.removesuffix(".gguf"), fold(name), fold(name).removesuffix(".gguf")):
            if known in names:
                return names[known]
        raise


def default_model(models: ModelAccess) -> str | None:
    """Return the id of the model that answers when a request names none; None when there is no such model."""
    try:
        return models.resolve(None, Mode.GENERATE).id
    except LocalLLMError:
        return None


def states_by_id(host: ModelHost) -> dict[str, ModelState]:
    """Return one state for each model that was asked for: of two modes the one that is loaded, or that generates."""
    states: dict[str, ModelState] = {}
    for state in host.status():
        known = states.get(state.id)
        if known is None or _precedence(state) > _precedence(known):
            states[state.id] = state
    return states


def _precedence(state: ModelState) -> tuple[bool, bool]:
    return state.info is not None, state.mode is Mode.GENERATE
