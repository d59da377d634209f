"""What the server asks of the room that runs models, and how its models are shown to callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from localllm.context import ModelAccess
from localllm.contract.errors import LocalLLMError, ModelUnsupportedError
from localllm.contract.model import FITTING_KINDS, Mode, ModelInfo, ModelKind, ModelSpec
from localllm.models.file_names import fold

OWNED_BY = "localllm"


class InstanceState(Protocol):
    """One of the workers behind a model's name, loaded or about to be, or one that failed."""

    @property
    def number(self) -> int:
        """Tells it from the model's others."""
        ...

    @property
    def state(self) -> str:
        """The word for callers, as of the model."""
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
    def unused_for_seconds(self) -> float | None:
        """Time since its last request was over; None while it is used or isn't loaded."""
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
        """What it counts for; None while it has no place."""
        ...

    @property
    def error(self) -> str | None:
        """Why its last load failed, or what it died of."""
        ...


class ModelState(Protocol):
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
    def state(self) -> str:
        """The word for callers: unloaded, queued (for room), loading, ready, draining or failed."""
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
    def in_flight(self) -> int:
        """Requests that use it."""
        ...

    @property
    def waiting(self) -> int:
        """Requests that wait for it to be loaded."""
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
    def expires_in_seconds(self) -> float | None:
        """What is left of that; None while it is used, and for ever."""
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
    def memory_estimated_bytes(self) -> int | None:
        """What it was expected to take."""
        ...

    @property
    def error(self) -> str | None:
        """Why the last load failed."""
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


def model_object(spec: ModelSpec, state: ModelState | None) -> dict[str, Any]:
    """Return OpenAI's model object with what others add: kind, state, facts from the file and the context length."""
    info = None if state is None else state.info
    meta = {**spec.meta, **({} if info is None else info.meta)}
    meta.pop("hyperparameters", None)  # for engines
    return {
        "id": spec.id,
        "object": "model",
        "created": spec.created,
        "owned_by": OWNED_BY,
        "root": _root(spec),
        "name": str(meta.get("name") or spec.id),
        "type": spec.kind.value,
        "aliases": list(spec.aliases),
        "tags": list(spec.tags),
        "capabilities": capabilities(spec, info),
        "loaded": info is not None,
        "state": "unloaded" if state is None else state.state,
        "pinned": spec.pinned,
        "ttl_seconds": spec.ttl_seconds,
        "defaults": sorted(spec.rules.defaults),
        "forced": sorted(spec.rules.force),
        "max_model_len": meta.get("n_ctx_train") if info is None else info.context_length,
        "meta": meta,
    }


def _root(spec: ModelSpec) -> str:
    """Return the file as it is called from the server's folder, "./models/x.gguf"; of one elsewhere its name alone."""
    if spec.path is None:
        return spec.id
    path, here = Path(spec.path), Path.cwd()
    return f"./{path.relative_to(here).as_posix()}" if path.is_relative_to(here) else path.name


def capabilities(spec: ModelSpec, info: ModelInfo | None) -> list[str]:
    """Return what works with a model, as far as its header, its kind, and what loading brought to light tell."""
    found: list[str] = []
    if spec.kind is ModelKind.CHAT:
        writes = info if info is not None and info.pooling is None else None
        has_template = spec.meta.get("has_chat_template", True) if writes is None else writes.has_chat_template
        chat_format = (writes.meta.get("chat_format") if writes is not None else None) or {}
        found.append("completion")
        found += ["chat"] if has_template else []
        found += ["tools"] if chat_format.get("calls") else []
        found += ["reasoning"] if chat_format.get("thought") else []
    if spec.kind is ModelKind.EMBEDDING or (info is not None and info.pooling is not None):
        gives_scores = info is not None and info.pooling is not None and info.pooling.kind == "rank"
        found += [] if gives_scores else ["embedding"]
    if spec.kind in FITTING_KINDS[ModelKind.RERANKER]:
        found.append("rerank")
    return found


def model_list(host: ModelHost) -> dict[str, Any]:
    """Return what ``GET /v1/models`` says: OpenAI's list, and beside it the ``models`` that Ollama's clients read."""
    states = states_by_id(host)
    data = [model_object(spec, states.get(spec.id)) for spec in host.list_specs()]
    return {"object": "list", "data": data, "models": [_ollama_object(model) for model in data]}


def _ollama_object(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model in the shape that llama-server gives it in ``models``, after Ollama's ``/api/tags``."""
    meta, created = model["meta"], model["created"]
    family = str(meta.get("arch") or "")
    return {
        "name": model["id"],
        "model": model["id"],
        "modified_at": datetime.fromtimestamp(created, UTC).isoformat() if created else "",
        "size": meta.get("size") or 0,
        "digest": "",
        "type": "model",
        "description": "",
        "tags": model["tags"],
        "capabilities": model["capabilities"],
        "parameters": "",
        "details": {
            "parent_model": "",
            "format": "gguf" if "quantisation" in meta else "",
            "family": family,
            "families": [family] if family else [],
            "parameter_size": _parameter_size(meta.get("n_params")),
            "quantization_level": str(meta.get("quantisation") or ""),
        },
    }


def _parameter_size(n_params: int | None) -> str:
    """Return "8.0B" or "137M", as Ollama writes it."""
    if not n_params:
        return ""
    if n_params >= 1_000_000_000:
        return f"{n_params / 1e9:.1f}B"
    return f"{n_params / 1e6:.0f}M" if n_params >= 1_000_000 else f"{n_params / 1e3:.0f}K"


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
