"""A whole server in process, with scripted models behind it: for the tests of plugins that bring endpoints."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from localllm.config.layers import DEFAULT_FILE, Layers
from localllm.config.load import check_config
from localllm.contract.backend import LoadRequest, ModelClient
from localllm.contract.errors import ModelNotFoundError, ModelUnsupportedError
from localllm.contract.generation import (
    CallDelta,
    ChoiceFinished,
    Chunk,
    Finished,
    FinishReason,
    GenerateEvent,
    GenerateRequest,
    Started,
    Timings,
    Usage,
)
from localllm.contract.model import FITTING_KINDS, Mode, ModelInfo, ModelKind, ModelSpec
from localllm.contract.pooling import (
    Pooled,
    PoolEvent,
    PoolFinished,
    PoolingInfo,
    PoolRequest,
    PoolStarted,
)
from localllm.contract.texts import TextRequest, TextResult
from localllm.plugin_discovery import GROUP
from localllm.plugin_manager import PluginManager, load_plugins
from localllm.server.app import build_app
from localllm.testing.decoders import load_fake
from localllm.testing.scripted_pooling import SCRIPTED_DIMENSIONS, scripted_counts, scripted_output
from localllm.worker.texts import answer_text

if TYPE_CHECKING:
    import httpx

SCRIPTED_MODEL = ModelSpec(id="scripted", backend="scripted", meta={"kind": "chat"})
_PROMPT_TOKENS = 4


class ScriptedModel:
    """A loaded model that says what it was told to, word by word, and remembers what it was asked.

    Put answers into ``answers``, oldest first; an exception among them is raised instead. When none is left it says
    ``"Hello there"``. An answer with thoughts or calls is a sequence of ``Chunk`` and ``CallDelta``. Every choice of a
    request says the same. ``requests`` are those that reached the model.

    Texts and pairs are pooled as :mod:`localllm.testing.scripted_pooling` says, and ``pool_requests`` are those that
    reached the model. An exception at the head of ``answers`` is raised here too. ``batch_texts`` is how many texts
    one event brings. ``pool_gate`` is waited for after each of them.

    A token is a byte, as :mod:`localllm.testing.byte_text` says, and ``text_requests`` are those about texts.
    ``text_gate`` is waited for before an answer.
    """

    def __init__(self) -> None:
        self.info = ModelInfo(context_length=2048, n_vocab=256, has_chat_template=True)
        self.answers: deque[str | Sequence[Chunk | CallDelta] | Exception] = deque()
        self.requests: list[GenerateRequest] = []
        self.pool_requests: list[PoolRequest] = []
        self.pool_gate: asyncio.Event | None = None
        self.text_requests: list[TextRequest] = []
        self.text_gate: asyncio.Event | None = None
        self._texts = load_fake(LoadRequest(SCRIPTED_MODEL.id, None, Mode.GENERATE))
        self.batch_texts = 4
        self.n_open = 0

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        """Yield the events of the next answer, giving way to other tasks between them."""
        self.requests.append(request)
        answer = self.answers.popleft() if self.answers else "Hello there"
        self.n_open += 1
        try:
            for event in _script(answer, request.sampling.n):
                await asyncio.sleep(0)
                yield event
        finally:
            self.n_open -= 1

    async def pool(self, request: PoolRequest) -> AsyncIterator[PoolEvent]:
        """Yield the vectors, or the scores, of all inputs: the longest first, as a real model's batches bring them."""
        self.pool_requests.append(request)
        if self.answers and isinstance(self.answers[0], Exception):
            raise cast("Exception", self.answers.popleft())
        self.n_open += 1
        try:
            counts, truncated = scripted_counts(request, self.info.context_length)
            yield PoolStarted(sum(counts))
            order = sorted(range(len(counts)), key=lambda index: -counts[index])
            for start in range(0, len(order), self.batch_texts):
                await asyncio.sleep(0)
                indices = tuple(order[start : start + self.batch_texts])
                yield Pooled(indices, b"".join(scripted_output(request, request.inputs[index]) for index in indices))
                if self.pool_gate is not None:
                    await self.pool_gate.wait()
            yield PoolFinished(sum(counts), truncated, compute_ms=1.0)
        finally:
            self.n_open -= 1

    async def convert(self, request: TextRequest) -> TextResult:
        """Return what a fake model makes of texts."""
        self.text_requests.append(request)
        if self.answers and isinstance(self.answers[0], Exception):
            raise cast("Exception", self.answers.popleft())
        self.n_open += 1
        try:
            await (asyncio.sleep(0) if self.text_gate is None else self.text_gate.wait())
            return await asyncio.to_thread(answer_text, request, self._texts)  # a worker's time is not the loop's
        finally:
            self.n_open -= 1

    async def close(self) -> None:
        """Nothing to let go."""


def _script(answer: str | Sequence[Chunk | CallDelta] | Exception, n_choices: int) -> list[GenerateEvent]:
    if isinstance(answer, Exception):
        raise answer
    pieces = _say(answer) if isinstance(answer, str) else answer
    choices = range(n_choices)
    n_thought = sum(piece.tokens for piece in pieces if isinstance(piece, Chunk) and piece.region == "reasoning")
    usage = Usage(
        _PROMPT_TOKENS,
        completion_tokens=sum(piece.tokens for piece in pieces) * n_choices,
        reasoning_tokens=n_thought * n_choices,
    )
    reason: FinishReason = "tool_calls" if any(isinstance(piece, CallDelta) for piece in pieces) else "stop"
    return [
        Started(_PROMPT_TOKENS),
        *(replace(piece, choice=choice) for piece in pieces for choice in choices),
        *(ChoiceFinished(choice, reason) for choice in choices),
        Finished(usage, Timings(queue_ms=0.0, prompt_ms=1.0, predicted_ms=1.0)),
    ]


def _say(text: str) -> list[Chunk]:
    words = text.split(" ")
    return [Chunk(0, word if index == 0 else f" {word}", tokens=1) for index, word in enumerate(words)]


class _Pooling:
    """The scripted model as it is when loaded to pool."""

    def __init__(self, model: ScriptedModel, kind: ModelKind) -> None:
        ranks = kind is ModelKind.RERANKER
        pooling = PoolingInfo("rank", 1, "logit") if ranks else PoolingInfo("mean", SCRIPTED_DIMENSIONS)
        self.info = replace(model.info, pooling=pooling)
        self.generate = model.generate
        self.pool = model.pool
        self.convert = model.convert
        self.close = model.close


class ScriptedModels:
    """Stands for the registry: all ``specs`` are loaded, and one :class:`ScriptedModel` answers for them all.

    A model of kind "reranker" has a classification head that gives logits.
    """

    def __init__(self, specs: Sequence[ModelSpec] = (SCRIPTED_MODEL,)) -> None:
        self.specs = list(specs)
        self.model = ScriptedModel()
        self.n_acquired = 0
        self.affinities: list[int | None] = []
        self.preloading: list[str] = []

    def resolve(self, name: str | None, mode: Mode, purpose: ModelKind | None = None) -> ModelSpec:
        """Return the model of this id or alias; None is the first that is fit, those made for the purpose before."""
        purpose = purpose or (ModelKind.CHAT if mode is Mode.GENERATE else None)
        kinds = list(ModelKind) if purpose is None else FITTING_KINDS[purpose]
        found = [spec for spec in self.specs if name in (spec.id, *spec.aliases)]
        if name is None:
            found = [spec for kind in kinds for spec in self.specs if spec.kind is kind]
        if not found:
            known = [spec.id for spec in self.specs]
            message = f"There is no model {name!r}. Known models: {', '.join(known)}."
            raise ModelNotFoundError(message, param="model", detail={"models": known})
        if found[0].kind not in kinds:
            message = f"Model {found[0].id!r} is of kind {found[0].kind.value!r} and can't do that."
            raise ModelUnsupportedError(message, param="model")
        return found[0]

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
        """Lend the model; ``n_acquired`` counts those who have it, ``affinities`` are those of all who had it."""
        spec = self.resolve(name, mode)
        self.affinities.append(affinity)
        self.n_acquired += 1
        try:
            yield self.model if mode is Mode.GENERATE else _Pooling(self.model, spec.kind)
        finally:
            self.n_acquired -= 1

    def list_specs(self) -> list[ModelSpec]:
        """Return all models."""
        return list(self.specs)

    def loaded(self, model_id: str) -> ModelInfo | None:
        """Return what the one model says of itself."""
        return self.model.info if any(spec.id == model_id for spec in self.specs) else None

    def status(self) -> list[Any]:
        """Return no states: nothing was loaded."""
        return []

    async def preload(self, names: Sequence[str | None]) -> None:
        """Nothing to load."""

    async def load(
        self, name: str | None, mode: Mode, *, ttl_seconds: float | None = None, pinned: bool | None = None
    ) -> None:
        """Find the model loaded already."""
        self.resolve(name, mode)

    async def unload(self, name: str | None, mode: Mode, *, deadline_seconds: float, force: bool = False) -> bool:
        """Keep the model: there is nothing to let go."""
        self.resolve(name, mode)
        return False

    async def run(self) -> None:
        """Wait to be cancelled."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing to end."""


@dataclass(frozen=True, slots=True)
class InProcessServer:
    """A running server without a socket. ``client`` is an ``httpx.AsyncClient`` that calls the app directly."""

    client: httpx.AsyncClient
    plugins: PluginManager
    models: ScriptedModels = field(default_factory=ScriptedModels)

    @property
    def model(self) -> ScriptedModel:
        """The model behind all names."""
        return self.models.model


@asynccontextmanager
async def serve_in_process(
    plugins: Mapping[str, str | ModuleType],
    directory: Path,
    *,
    config: Mapping[str, Any] | None = None,
    models: ScriptedModels | None = None,
) -> AsyncIterator[InProcessServer]:
    """Run a server with these plugins, by name: modules, or what an entry point would say (``"pkg.module:object"``).

    ``config`` is what ``localllm.toml`` would hold, as plain dicts; ``directory`` is where its relative paths count
    from. Everything is checked and refused as in a real start: raises ``ConfigError`` and ``PluginError``. Needs httpx.
    """
    import httpx

    places = {name: place if isinstance(place, str) else place.__name__ for name, place in plugins.items()}
    entry_points = [EntryPoint(name, place, GROUP) for name, place in places.items()]
    manager = load_plugins(list(plugins), entry_points=entry_points)
    layers = Layers(dict(config or {}), directory / DEFAULT_FILE)
    checked = check_config(layers, manager.sections)
    manager.register(checked)
    models = models or ScriptedModels()
    manager.bind_models(models)
    app = build_app(checked, manager, models)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield InProcessServer(client, manager, models)
