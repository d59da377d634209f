"""How the command line shows a model's facts, wherever they come from: this machine's disk or a running server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localllm.cli.output import format_bytes, format_count

LIST_COLUMNS = ("MODEL", "KIND", "QUANTISATION", "PARAMETERS", "SIZE", "CONTEXT")


def list_row(model: Mapping[str, Any], *, is_default: bool) -> list[str]:
    """Return one row under :data:`LIST_COLUMNS` of a model as ``GET /v1/models`` shows it."""
    meta = model.get("meta") or {}
    return [
        str(model.get("id")) + (" *" if is_default else ""),
        str(model.get("type")),
        str(meta.get("quantisation") or "?"),
        format_count(meta.get("n_params")),
        format_bytes(meta.get("size")),
        str(meta.get("n_ctx_train") or "?"),
    ]


def readable_meta(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of a file's header for people."""
    readable = {key: value for key, value in meta.items() if key != "hyperparameters" and value is not None}
    scales = {"size": format_bytes, "n_params": format_count}
    return {
        key: scales[key](value)
        if key in scales
        else ", ".join(map(str, value))
        if isinstance(value, (list, tuple))
        else str(value)
        for key, value in readable.items()
    }
