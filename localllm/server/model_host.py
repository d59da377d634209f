"""What the server asks of the room that runs models, and how its models are shown to callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from localllm.context import ModelAccess
from localllm.contract.errors import LocalLLMError, ModelUnsupportedError
from localllm.contract.model import Mode, ModelInfo, ModelSpec

OWNED_BY = "localllm"


class ModelState(Protocol):
    """One model in one mode that is loaded, or was asked for."""

    @property
    def id(self) -> str:
        """The model's id."""
        ...

    @property
    def mode(self) -> Mode:
        """What it is, or was to be, loaded for."""
        ...

    @property
    def state(self) -> str:
        """The word for callers: unloaded, loading, ready, draining or failed."""
        ...

    @property
    def safe_mode(self) -> bool:
        """Loaded without what the build miscompiled; slower than it could be."""
        ...

    @property
    def info(self) -> ModelInfo | None:
        """What loading brought to light; None while it isn't loaded."""
        ...


class ModelHost(ModelAccess, Protocol):
    """The registry of models as the server uses it. Event loop only."""

    def status(self) -> Sequence[ModelState]:
        """Return the state of models; one that was never asked for may be missing."""
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
        return names[name] if name in names else names[name.removesuffix(".gguf")]


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


def model_object(spec: ModelSpec, state: ModelState | None) -> dict[str, Any]:
    """Return OpenAI's model object with what others add: kind, state, facts from the file and the context length."""
    info = None if state is None else state.info
    meta: Mapping[str, Any] = {**spec.meta, **({} if info is None else info.meta)}
    return {
        "id": spec.id,
        "object": "model",
        "created": spec.created,
        "owned_by": OWNED_BY,
        "name": str(meta.get("name") or spec.id),
        "type": spec.kind.value,
        "aliases": list(spec.aliases),
        "loaded": info is not None,
        "state": "unloaded" if state is None else state.state,
        "max_model_len": meta.get("n_ctx_train") if info is None else info.context_length,
        "meta": dict(meta),
    }


def health_body(host: ModelHost, *, draining: bool, show_models: bool) -> dict[str, Any]:
    """Return what ``GET /health`` says: always ``status``; models only to those who may use them."""
    body: dict[str, Any] = {
        "status": "draining" if draining else "ok",
        "default_model": default_model(host) if show_models else None,
        "models": [spec.id for spec in host.list_specs()] if show_models else [],
    }
    safe = sorted({state.id for state in host.status() if state.safe_mode}) if show_models else []
    if safe:
        body["safe_mode"] = safe
        body["note"] = (
            "These models run in safe mode: the native build failed its self-test. The log says how to mend it."
        )
    return body
