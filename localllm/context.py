"""What one plugin gets from the core: its own settings and the registries, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from localllm.contract.backend import ModelClient
from localllm.contract.interception import Interceptor
from localllm.contract.model import Mode, ModelInfo, ModelKind, ModelSpec
from localllm.contract.sessions import SessionStore


class ModelAccess(Protocol):
    """The loaded and loadable models, as endpoint plugins see them."""

    def resolve(self, name: str | None, mode: Mode, purpose: ModelKind | None = None) -> ModelSpec:
        """Return the model that ``name`` (id, alias, file name, None for the default) stands for.

        ``purpose`` is the kind of model whose work is to be done: it chooses the default, and refuses a model that
        can't do it. Chat and embedding models give embeddings; rerankers and embedding models rank. Absent it is chat
        for ``Mode.GENERATE``; to pool, any model will do, and the default is the one for embeddings.

        Raises ``ModelNotFoundError`` (param "model", with the known ids) or ``ModelUnsupportedError``.
        """
        ...

    def acquire(
        self,
        name: str | None,
        mode: Mode,
        *,
        autoload: bool = True,
        ttl_seconds: float | None = None,
        affinity: int | None = None,
    ) -> AbstractAsyncContextManager[ModelClient]:
        """Load the model if need be and keep it loaded inside the ``async with``.

        It may have to wait until others are let go. Without ``autoload`` a model that is not loaded is an error
        instead. ``ttl_seconds`` is how long it stays unused after this request: 0 not at all, infinity for ever, None
        as configured. ``affinity`` is a number that is equal for requests that begin alike: of several instances of the
        model, one goes where the last of them went, if it need not wait there.
        Raises ``ModelNotFoundError``, ``ModelUnsupportedError``, ``ModelNotLoadedError``, ``ModelTooLargeError``,
        ``ModelLoadError``, ``ModelFileError``, ``OverloadedError``, ``UnavailableError``.
        """
        ...

    def list_specs(self) -> list[ModelSpec]:
        """Return all models, the default one first."""
        ...

    def loaded(self, model_id: str) -> ModelInfo | None:
        """Return what loading brought to light of a model, of two modes as it generates; None while it isn't loaded."""
        ...


class LaterModels:
    """The models as a context shows them: out of reach until the server has built its registry."""

    def __init__(self) -> None:
        self.access: ModelAccess | None = None

    def resolve(self, name: str | None, mode: Mode, purpose: ModelKind | None = None) -> ModelSpec:
        """As ``ModelAccess`` has it, like all that follow; raises RuntimeError before there is one."""
        return self._reach().resolve(name, mode, purpose)

    def acquire(
        self,
        name: str | None,
        mode: Mode,
        *,
        autoload: bool = True,
        ttl_seconds: float | None = None,
        affinity: int | None = None,
    ) -> AbstractAsyncContextManager[ModelClient]:
        """Lend a loaded model."""
        return self._reach().acquire(name, mode, autoload=autoload, ttl_seconds=ttl_seconds, affinity=affinity)

    def list_specs(self) -> list[ModelSpec]:
        """Return all models."""
        return self._reach().list_specs()

    def loaded(self, model_id: str) -> ModelInfo | None:
        """Return what loading brought to light."""
        return self._reach().loaded(model_id)

    def _reach(self) -> ModelAccess:
        if self.access is None:
            message = "models can't be reached while plugins register; use context.models in handlers and life cycles"
            raise RuntimeError(message)
        return self.access


def _no_store() -> SessionStore | None:
    return None


@dataclass(frozen=True, slots=True)
class PluginContext:
    """One plugin's view of the server. ``config`` is an instance of the section type that the plugin declared.

    ``data_dir`` is the plugin's own folder inside the state directory (created on first use by the plugin).
    ``clock`` is monotonic, in seconds. ``models`` raises RuntimeError until the configuration is frozen and models
    are registered, that is during registration hooks; it is for handlers and life cycles. ``session_store`` returns
    where conversations are kept, None when no enabled plugin brings a store; it too is for handlers. ``interceptors``
    returns what all plugins registered to see generations; ``stream_generation`` asks them. ``shared`` is the plugin's
    own: what one of its hooks makes for another, such as a store for its life cycle.
    """

    name: str
    config: Any
    logger: logging.Logger
    data_dir: Path
    clock: Callable[[], float]
    models: ModelAccess
    session_store: Callable[[], SessionStore | None] = _no_store
    interceptors: Callable[[], tuple[Interceptor, ...]] = tuple
    shared: dict[str, Any] = field(default_factory=dict, compare=False)
