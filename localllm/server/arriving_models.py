"""The models that there are, and those that are being fetched: requests for one that is on its way wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from localllm.contract.backend import ModelClient
from localllm.contract.errors import LocalLLMError, ModelNotFoundError, UnavailableError
from localllm.contract.model import Mode, ModelDefinition, ModelInfo, ModelKind, ModelSpec
from localllm.models.pull_options import PullOptions
from localllm.models.pulls import Pull, Pulls
from localllm.server.defined_models import DefinedModels
from localllm.server.model_host import ModelHost, ModelState

_SHORTEST_RETRY_SECONDS = 5
_LONGEST_RETRY_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Arriving:
    """A model whose file is not there yet: ``pull`` fetches it, or ``error`` says why it can't be had."""

    spec: ModelSpec
    pull: Pull | None
    error: LocalLLMError | None


class ArrivingModels:
    """A :class:`ModelHost` in front of another, which knows nothing of pulls. Event loop only.

    :meth:`resolve` promises a model that is being fetched; :meth:`acquire` waits for it, for as long as the request
    may take. With ``wait`` unset both raise ``UnavailableError``, which tells how far the pull is.
    """

    def __init__(self, host: ModelHost, pulls: Pulls, *, wait: bool) -> None:
        self._host = host
        self._pulls = pulls
        self._wait = wait
        self._defined = DefinedModels(pulls)

    def reconfigure(self, options: PullOptions, on_arrival: Callable[[str], None], *, wait: bool) -> None:
        """Put other options in force for pulls that are started, and requests that come, from now on.

        ``on_arrival`` hears of models that come, also from pulls that are under way.
        """
        self._pulls.reconfigure(options, on_arrival)
        self._wait = wait

    def fetch(self, arriving: Mapping[str, ModelDefinition], defaults: Mapping[ModelKind, str | None]) -> None:
        """Fetch the models that the configuration gives a source: see :meth:`DefinedModels.fetch`."""
        self._defined.fetch(arriving, defaults)

    def resolve(self, name: str | None, mode: Mode, purpose: ModelKind | None = None) -> ModelSpec:
        """Return the model that a name means. One that is being fetched has no facts yet, only what is configured.

        Raises ``PullError`` for one with a source from which it could not be fetched.
        """
        try:
            return self._host.resolve(name, mode, purpose)
        except ModelNotFoundError:
            defined = self._defined.find(name, mode, purpose)
            if defined is not None:
                pull = self._defined.pull_of(defined)
                if pull is None:
                    raise
                if not self._wait:
                    raise _still_fetching(defined.id, pull) from None
                return _promise(defined, purpose)
            pull = self._pulls.pending(name) if name is not None else None
            if name is None or pull is None:
                raise
            if not self._wait:
                raise _still_fetching(name, pull) from None
            return _announce(name, pull, purpose)

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
        """Wait for the model if it is being fetched, then do what the other host does.

        Raises what that raises, and the error that ended the pull.
        """
        if autoload:
            name = await self._arrival(name, mode)
        async with self._host.acquire(
            name, mode, autoload=autoload, ttl_seconds=ttl_seconds, affinity=affinity
        ) as client:
            yield client

    def list_specs(self) -> list[ModelSpec]:
        """Return the models that are there."""
        return self._host.list_specs()

    def arriving(self) -> list[Arriving]:
        """Return the models that are being fetched, and the configured ones that could not be; what clients asked for
        in vain is in the list of pulls alone. So is a pull whose source has not told an id yet."""
        configured = self._defined.on_their_way()
        promises = {
            definition.id: Arriving(_promise(definition, None), pull, error) for definition, pull, error in configured
        }
        theirs = {pull.id for _, pull, _ in configured if pull is not None}
        for pull in self._pulls.running():
            if pull.model_id is not None and pull.id not in theirs:
                promises.setdefault(pull.model_id, Arriving(_announce(pull.model_id, pull, None), pull, None))
        there = {spec.id for spec in self._host.list_specs()} if promises else set()
        return [promise for model_id, promise in promises.items() if model_id not in there]

    def loaded(self, model_id: str) -> ModelInfo | None:
        """Return what is known of a model because it is loaded; None while it isn't."""
        return self._host.loaded(model_id)

    def status(self) -> Sequence[ModelState]:
        """Return the state of the models that are there."""
        return self._host.status()

    @property
    def preloading(self) -> Sequence[str]:
        """The models that are still to be loaded because the server has just started."""
        return self._host.preloading

    async def preload(self, names: Sequence[str | None]) -> None:
        """Load the models that are there, then those that are being fetched, as they come."""
        names = [self._default_on_its_way() if name is None else name for name in names]
        arriving = [name for name in names if name is not None and self._pulls.pending(name) is not None]
        await self._host.preload([name for name in names if name not in arriving])
        for name in arriving:
            pull = self._pulls.pending(name)
            if pull is not None:
                async for _ in pull.follow():
                    pass
            await self._host.preload([name])

    async def load(
        self, name: str | None, mode: Mode, *, ttl_seconds: float | None = None, pinned: bool | None = None
    ) -> None:
        """Wait for the model if it is being fetched, then load it."""
        name = await self._arrival(name, mode)
        await self._host.load(name, mode, ttl_seconds=ttl_seconds, pinned=pinned)

    async def unload(self, name: str | None, mode: Mode, *, deadline_seconds: float, force: bool = False) -> bool:
        """Let a model go."""
        return await self._host.unload(name, mode, deadline_seconds=deadline_seconds, force=force)

    async def run(self) -> None:
        """Do the other host's background work."""
        await self._host.run()

    async def close(self) -> None:
        """End all pulls and all workers."""
        await self._pulls.close()
        await self._host.close()

    async def _arrival(self, name: str | None, mode: Mode) -> str | None:
        """Return the model's name, at once where it is there, even if a newer version of it is being fetched."""
        defined = self._defined.find(name, mode)
        pull = self._pulls.pending(name) if name is not None else None
        if defined is None and pull is None:
            return name
        try:
            self._host.resolve(name, mode)
        except ModelNotFoundError:
            if defined is not None:
                return await self._defined_arrival(defined)
            if pull is None:
                raise
            if not self._wait:
                raise _still_fetching(name or "", pull) from None
            return (await pull.wait()).model_id  # it may have been asked for by its source
        return name

    async def _defined_arrival(self, defined: ModelDefinition) -> str:
        """Return the id of a model with a source when it is there. Raises ``PullError`` with the reason why not."""
        pull = self._defined.pull_of(defined)
        if pull is None:
            return defined.id
        if not self._wait:
            raise _still_fetching(defined.id, pull)
        try:
            await pull.wait()
        except LocalLLMError as error:
            raise self._defined.failure(defined, error) from error
        return defined.id

    def _default_on_its_way(self) -> str | None:
        """Return the id of the default model if it is still to come, None if it is there or nowhere."""
        try:
            self._host.resolve(None, Mode.GENERATE)
        except ModelNotFoundError:
            defined = self._defined.find(None, Mode.GENERATE)
            return None if defined is None else defined.id
        except LocalLLMError:
            return None  # loading it tells
        return None


def _promise(defined: ModelDefinition, purpose: ModelKind | None) -> ModelSpec:
    """Return what is known of a model before its file is there: how its requests are to be treated, above all."""
    return ModelSpec(
        defined.id,
        defined.backend,
        kind=defined.kind or purpose or ModelKind.CHAT,
        aliases=defined.aliases,
        settings=defined.settings,
        tags=defined.tags,
        ttl_seconds=defined.ttl_seconds,
        pinned=defined.pinned,
        rules=defined.rules,
        preload=defined.preload,
        min_instances=defined.min_instances,
        max_instances=defined.max_instances,
    )


def _announce(name: str, pull: Pull, purpose: ModelKind | None) -> ModelSpec:
    """Return what is known of a model that a client asked for; of what kind it is its header will tell."""
    return ModelSpec(name, backend="", kind=purpose or pull.job.kind or ModelKind.CHAT)


def _still_fetching(name: str, pull: Pull) -> UnavailableError:
    progress = pull.progress
    share = "" if progress.percent is None else f", {progress.percent:g} % of it has come"
    seconds = progress.eta_seconds or _SHORTEST_RETRY_SECONDS
    return UnavailableError(
        f"Model {name[:100]!r} is being fetched ({progress.status.value}{share}); ask again later.",
        retry_after_seconds=min(max(seconds, _SHORTEST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS),
    )
