"""A whole server in process, with scripted models behind it: for the tests of plugins that bring endpoints."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from localllm.config.layers import DEFAULT_FILE, Layers
from localllm.config.load import check_config
from localllm.contract.errors import ModelNotFoundError, ModelUnsupportedError
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Started,
    Timings,
    Usage,
)
from localllm.contract.model import Mode, ModelInfo, ModelKind, ModelSpec
from localllm.plugin_discovery import GROUP
from localllm.plugin_manager import PluginManager, load_plugins
from localllm.server.app import build_app

if TYPE_CHECKING:
    import httpx

SCRIPTED_MODEL = ModelSpec(id="scripted", backend="scripted", meta={"kind": "chat"})
_PROMPT_TOKENS = 4


class ScriptedModel:
    """A loaded model that says what it was told to, word by word, and remembers what it was asked.

    Put answers into ``answers``, oldest first; an exception among them is raised instead. When none is left it says
    ``"Hello there"``. Every choice of a request says the same. ``requests`` are those that reached the model.
    """

    def __init__(self) -> None:
        self.info = ModelInfo(context_length=2048, n_vocab=256, has_chat_template=True)
        self.answers: deque[str | Exception] = deque()
        self.requests: list[GenerateRequest] = []
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

    async def close(self) -> None:
        """Nothing to let go."""


def _script(answer: str | Exception, n_choices: int) -> list[GenerateEvent]:
    if isinstance(answer, Exception):
        raise answer
    words = answer.split(" ")
    pieces = [word if index == 0 else f" {word}" for index, word in enumerate(words)]
    choices = range(n_choices)
    usage = Usage(_PROMPT_TOKENS, completion_tokens=len(pieces) * n_choices)
    return [
        Started(_PROMPT_TOKENS),
        *(Chunk(choice, piece, tokens=1) for piece in pieces for choice in choices),
        *(ChoiceFinished(choice, "stop") for choice in choices),
        Finished(usage, Timings(queue_ms=0.0, prompt_ms=1.0, predicted_ms=1.0)),
    ]


class ScriptedModels:
    """Stands for the registry: all ``specs`` are loaded, and one :class:`ScriptedModel` answers for them all."""

    def __init__(self, specs: Sequence[ModelSpec] = (SCRIPTED_MODEL,)) -> None:
        self.specs = list(specs)
        self.model = ScriptedModel()
        self.n_acquired = 0

    def resolve(self, name: str | None, mode: Mode) -> ModelSpec:
        """Return the model of this id or alias; None is the first."""
        found = [spec for spec in self.specs if name in (None, spec.id, *spec.aliases)]
        if not found:
            known = [spec.id for spec in self.specs]
            message = f"There is no model {name!r}. Known models: {', '.join(known)}."
            raise ModelNotFoundError(message, param="model", detail={"models": known})
        if (found[0].kind is ModelKind.CHAT) != (mode is Mode.GENERATE):
            message = f"Model {found[0].id!r} is of kind {found[0].kind.value!r} and can't {mode.value}."
            raise ModelUnsupportedError(message, param="model")
        return found[0]

    @asynccontextmanager
    async def acquire(self, name: str | None, mode: Mode) -> AsyncIterator[ScriptedModel]:
        """Lend the model; ``n_acquired`` counts those who have it."""
        self.resolve(name, mode)
        self.n_acquired += 1
        try:
            yield self.model
        finally:
            self.n_acquired -= 1

    def list_specs(self) -> list[ModelSpec]:
        """Return all models."""
        return list(self.specs)

    def status(self) -> list[Any]:
        """Return no states: nothing was loaded."""
        return []

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
