"""What an engine plugin supplies: a name, and either a factory for the worker process or a client of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from localllm.contract.decoder import ConstraintCompiler, Decoder, PromptRenderer, Tokenizer
from localllm.contract.diagnosis import Finding
from localllm.contract.generation import ChatPrompt, GenerateEvent, GenerateRequest
from localllm.contract.model import MemoryUse, Mode, ModelInfo, ModelSpec
from localllm.contract.pooling import PoolEncoder, Pooler, PoolEvent, PoolRequest
from localllm.contract.texts import TextRequest, TextResult


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What a factory in the worker gets: the model's file, its settings (plain JSON) and how to load it.

    ``safe_mode`` is set after the self-test killed an earlier worker: leave out whatever the build may have
    miscompiled (for llama.cpp: AMX and repacked buffers). ``preload`` and ``state_dir`` are the worker's own business:
    beginnings of conversations that it has evaluated before anybody asks, and the server's folder for what outlives it,
    where conversations are kept from one worker to the next (None: nowhere).
    """

    model_id: str
    path: str | None
    mode: Mode
    settings: Mapping[str, Any] = field(default_factory=dict)
    safe_mode: bool = False
    preload: tuple[ChatPrompt, ...] = ()
    state_dir: str | None = None


class LoadedModel(Protocol):
    """What a factory returns for :attr:`Mode.GENERATE`."""

    @property
    def info(self) -> ModelInfo:
        """Facts for the host; fixed."""
        ...

    @property
    def decoder(self) -> Decoder:
        """Used by the step thread only."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Used by several threads."""
        ...

    @property
    def renderer(self) -> PromptRenderer | None:
        """Used by the intake thread; None when the model has no chat template."""
        ...

    @property
    def constraints(self) -> ConstraintCompiler | None:
        """Used by the intake thread; None when the decoder heeds no ``SamplingParams.constraint``."""
        ...

    def close(self) -> None:
        """Free everything; called once, after the last step."""
        ...


class LoadedPooler(Protocol):
    """What a factory returns for :attr:`Mode.POOL`."""

    @property
    def info(self) -> ModelInfo:
        """Facts for the host, ``pooling`` among them; fixed."""
        ...

    @property
    def pooler(self) -> Pooler:
        """Used by the step thread only."""
        ...

    @property
    def encoder(self) -> PoolEncoder:
        """Used by the intake thread only."""
        ...

    def close(self) -> None:
        """Free everything; called once, after the last batch."""
        ...


WorkerFactory = Callable[[LoadRequest], LoadedModel | LoadedPooler]
"""Named as ``"package.module:function"``; imported in the worker only. Raises ``ModelLoadError``/``ModelFileError``.

It returns a ``LoadedModel`` for ``Mode.GENERATE`` and a ``LoadedPooler`` for ``Mode.POOL``.
"""


Examiner = Callable[[Sequence[LoadRequest]], Sequence[Finding]]
"""What an engine says of this machine and of models that it would load here. Named as ``"package.module:function"``.

``localllm doctor`` runs it in a child process, which may take seconds, touch devices, and die. It loads no model.
"""


class ModelClient(Protocol):
    """A loaded model as the server sees it: a worker's host client, or a backend that runs elsewhere.

    A client is loaded in one mode and is asked for that only: ``generate`` and ``convert``, or ``pool``.
    """

    @property
    def info(self) -> ModelInfo:
        """Facts that loading brought to light."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[GenerateEvent]:
        """Yield the events of one generation; closing the iterator early cancels it. Raises ``LocalLLMError``."""
        ...

    def pool(self, request: PoolRequest) -> AsyncIterator[PoolEvent]:
        """Yield the events of one pooling request; closing the iterator early cancels it. Raises ``LocalLLMError``."""
        ...

    async def convert(self, request: TextRequest) -> TextResult:
        """Return what the model, loaded to generate, makes of texts without computing. Raises ``LocalLLMError``."""
        ...

    async def close(self) -> None:
        """Let the model go. Open generations end with ``UnavailableError``. May be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """An engine. Exactly one of ``factory`` (kind "worker") and ``connect`` (kind "client") is given.

    ``settings`` is the dataclass of the engine's keys, which stand in ``[plugin.<name>]`` for all models and in
    ``[models.define.<id>]`` for one; None when it has none. That a build needs ``safe_mode`` is remembered by its
    ``build_id``. ``estimate`` says, from a model's header facts and settings alone, what it will take when loaded.
    """

    name: str
    modes: frozenset[Mode]
    kind: Literal["worker", "client"] = "worker"
    factory: str | None = None
    connect: Callable[[ModelSpec, Mode], Any] | None = None  # returns an awaitable ModelClient
    settings: type | None = None
    build_id: Callable[[], str] | None = None  # names the native build without importing it
    refuses: Callable[[ModelSpec, Mode], str | None] | None = None  # why a model can't be loaded so, without loading it
    estimate: Callable[[ModelSpec, Mode], MemoryUse | None] | None = None  # fast: reads no file, imports no engine
    examine: str | None = None  # "package.module:function", an Examiner
    rebuild_command: str | None = None  # what to run when the native build proves to be miscompiled

    def __post_init__(self) -> None:
        wanted, other = (self.factory, self.connect) if self.kind == "worker" else (self.connect, self.factory)
        if wanted is None or other is not None:
            message = f"backend {self.name!r} is of kind {self.kind!r}: give it a " + (
                "factory ('package.module:function') and no connect"
                if self.kind == "worker"
                else "connect and no factory"
            )
            raise ValueError(message)
