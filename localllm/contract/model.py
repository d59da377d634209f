"""What a model is before it is loaded, and what its worker says of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from localllm.contract.generation import ChatPrompt
from localllm.contract.pooling import PoolingInfo


class ModelKind(StrEnum):
    """What a model is made for, as its header or its folder says."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANKER = "reranker"


FITTING_KINDS: Mapping[ModelKind, tuple[ModelKind, ...]] = {
    ModelKind.CHAT: (ModelKind.CHAT,),
    ModelKind.EMBEDDING: (ModelKind.EMBEDDING, ModelKind.CHAT),
    ModelKind.RERANKER: (ModelKind.RERANKER, ModelKind.EMBEDDING),
}
"""Which kinds of models can do the work of a kind, those made for it first: a chat model's file may well pool, but its
vectors are too coarse to rank by; a reranker's head gives one number and no vector."""


class Mode(StrEnum):
    """How a model is loaded: to generate text, or to pool texts into vectors and scores."""

    GENERATE = "generate"
    POOL = "pool"


USUAL_MODES: Mapping[ModelKind, Mode] = {
    ModelKind.CHAT: Mode.GENERATE,
    ModelKind.EMBEDDING: Mode.POOL,
    ModelKind.RERANKER: Mode.POOL,
}
"""How a model of a kind is loaded when nobody says how."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What a loaded model takes, in bytes, on whatever device: estimated from its header, or measured.

    ``weights_bytes`` of a mapped file count in full; ``cache_bytes`` are the KV cells, ``compute_bytes`` all else.
    """

    weights_bytes: int
    cache_bytes: int = 0
    compute_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.cache_bytes + self.compute_bytes


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What a model's configuration says of the bodies of requests that name it, in the order in which it is done.

    Fields in ``strip`` are dropped; those in ``defaults`` count where a request leaves them out; those in ``force``
    always do. ``system_prompt`` goes before messages that hold no instructions of their own.
    """

    system_prompt: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    strip: tuple[str, ...] = ()
    force: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model that can be loaded by name.

    ``settings`` are the backend's own keys for this model (already checked against its section).
    ``path`` is absolute. ``meta`` is shown in ``GET /v1/models`` as it is. ``ttl_seconds`` is how long it stays loaded
    unused (0: for ever; None: as ``models.idle_unload_minutes`` says, or for ever where it is ``pinned``); a ``pinned``
    one is never let go for another. ``preload`` are beginnings of conversations to be evaluated before anybody asks.
    ``min_instances`` workers always stay loaded to do what the model is made for; as many as ``max_instances`` are
    loaded, per mode, while there is more to do than one can do at a time.
    """

    id: str
    backend: str
    kind: ModelKind = ModelKind.CHAT
    path: str | None = None
    aliases: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    created: int = 0  # seconds since 1970
    meta: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    ttl_seconds: float | None = None
    pinned: bool = False
    rules: RequestRules = RequestRules()
    preload: tuple[ChatPrompt, ...] = ()
    min_instances: int = 0
    max_instances: int = 1


@dataclass(frozen=True, slots=True)
class ModelDefinition:
    """What ``[models.define.<id>]`` says of one model, checked. What it leaves out comes from the file's header.

    Without ``path`` it goes with the found file of the same id, with the one that was pulled from ``source``, or with a
    backend that needs no file. ``settings`` are all keys of the backend, as plain JSON: those of this model over those
    of ``[plugin.<name>]``. ``rules`` and the messages in ``preload`` are as they were written, until the room that
    knows requests has checked them; so is ``source``, until the room that knows the sources has.
    """

    id: str
    backend: str
    path: str | None = None
    kind: ModelKind | None = None
    aliases: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    ttl_seconds: float | None = None
    pinned: bool = False
    rules: RequestRules = RequestRules()
    preload: tuple[ChatPrompt, ...] = ()
    source: str | None = None
    min_instances: int = 0
    max_instances: int = 1


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the worker learned by loading the model; sent once with ``Ready``.

    ``context_length`` is what one request may use, prompt and answer together, in tokens; of a model that pools, what
    one text may have.
    ``adapters`` are the names of those that requests may name, in order, each with its usual scale. ``parallel`` is how
    many answers are written, or texts pooled, at the same time.
    ``notes`` are sentences for the log (for instance that the context was shrunk to fit the memory).
    """

    context_length: int
    n_vocab: int
    description: str = ""
    n_params: int = 0
    size_bytes: int = 0
    has_chat_template: bool = False
    notes: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    pooling: PoolingInfo | None = None  # set when it was loaded to pool
    memory: MemoryUse | None = None  # as measured; None where the engine can't tell
    adapters: tuple[tuple[str, float], ...] = ()
    parallel: int = 1
