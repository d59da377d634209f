"""The state of the server in lllms' words: which instances there are, which models, and what is being downloaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from localllm.contract.model import ModelInfo, ModelSpec
from localllm.models.pulls import Pull
from localllm.server.arriving_models import ArrivingModels
from localllm.server.model_host import InstanceState, ModelHost, ModelState, states_by_id

_UNITS: Final = ("B", "KB", "MB", "GB", "TB")
_INSTANCE_WORDS: Final[Mapping[str, str]] = {"queued": "preparing", "loading": "preparing", "failed": "error"}


def instance_report(host: ModelHost, pulls: Sequence[Pull], now: datetime) -> dict[str, Any]:
    """Return ``pool`` (requests and instances) and ``store`` (models and downloads). ``pulls`` are those under way."""
    states = host.status()
    engines = {spec.id: spec.backend for spec in host.list_specs()}
    return {
        "pool": {
            "processing": sum(state.in_flight for state in states),
            "pending": sum(state.waiting for state in states),
            "instances": {
                f"{state.id}:{state.mode.value}-{instance.number}": _instance(
                    state, instance, engines.get(state.id, ""), now
                )
                for state in states
                for instance in state.instances
            },
        },
        "store": _store(host, pulls),
    }


def _instance(state: ModelState, instance: InstanceState, engine: str, now: datetime) -> dict[str, Any]:
    is_loaded = instance.loaded_for_seconds is not None
    return {
        "model": state.id,
        "status": _INSTANCE_WORDS.get(instance.state, "busy" if instance.in_flight else "idle"),
        "engine": engine,
        "device": _device(state.info) if is_loaded else None,
        "contextState": {"contextSize": state.info.context_length} if is_loaded and state.info is not None else None,
        "lastUsed": _last_used(instance, now),
    }


def _last_used(instance: InstanceState, now: datetime) -> str | None:
    if instance.in_flight:
        return now.isoformat()
    if instance.unused_for_seconds is None:
        return None
    return datetime.fromtimestamp(now.timestamp() - instance.unused_for_seconds, UTC).isoformat()


def _store(host: ModelHost, pulls: Sequence[Pull]) -> dict[str, Any]:
    downloads: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for pull in pulls:
        downloads[pull.model_id or pull.job.model_id or pull.job.source].append(_download(pull))
    loaded = {model_id: state.info for model_id, state in states_by_id(host).items()}
    store = {
        spec.id: _model(spec, "ready", loaded.get(spec.id), downloads.pop(spec.id, [])) for spec in host.list_specs()
    }
    for one in host.arriving() if isinstance(host, ArrivingModels) else ():
        status = "error" if one.pull is None else "loading"
        names = {one.spec.id} if one.pull is None else {one.spec.id, one.pull.model_id or "", one.pull.job.source}
        under_way = [download for name in names for download in downloads.pop(name, [])]
        store[one.spec.id] = _model(one.spec, status, None, under_way)
    for name, under_way in downloads.items():
        store[name] = _model(ModelSpec(name, ""), "loading", None, under_way)
    return store


def _model(
    spec: ModelSpec, status: str, info: ModelInfo | None, downloads: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    wants_gpu = spec.settings.get("n_gpu_layers", 0) != 0
    return {
        "engine": spec.backend or None,
        "device": _device(info) or ("auto" if wants_gpu else "cpu"),
        "minInstances": spec.min_instances,
        "maxInstances": spec.max_instances,
        "status": status,
        "downloads": list(downloads),
    }


def _device(info: ModelInfo | None) -> str | None:
    """Return where a loaded model computes; None where it isn't loaded."""
    if info is None:
        return None
    return "gpu" if info.meta.get("offload", {}).get("layers") else "cpu"


def _download(pull: Pull) -> dict[str, Any]:
    """Return one download; sizes that are not known yet are null. ``speed`` is in bytes per second."""
    progress = pull.progress
    return {
        "file": progress.file or pull.job.source,
        "loadedBytes": progress.completed_bytes,
        "formattedLoadedBytes": format_bytes(progress.completed_bytes),
        "totalBytes": progress.total_bytes,
        "formattedTotalBytes": None if progress.total_bytes is None else format_bytes(progress.total_bytes),
        "percent": progress.percent,
        "speed": None if progress.speed is None else round(progress.speed),
        "etaSeconds": progress.eta_seconds,
        "formattedEta": None if progress.eta_seconds is None else format_seconds(progress.eta_seconds),
    }


def format_bytes(n_bytes: int) -> str:
    """Return "0 B", "999 B" or "1.5 GB": units are powers of 1000."""
    size, unit = float(n_bytes), 0
    while size >= 999.95 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{n_bytes} B"


def format_seconds(seconds: int) -> str:
    """Return "12s", "3m 5s" or "2h 0m"."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"
