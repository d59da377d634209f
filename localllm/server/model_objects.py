"""How models are shown to callers: as OpenAI's objects, as Ollama's, and in what ``GET /health`` says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from localllm.contract.model import FITTING_KINDS, ModelInfo, ModelKind, ModelSpec
from localllm.server.model_host import ModelHost, ModelState, default_model, states_by_id

OWNED_BY = "localllm"


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
