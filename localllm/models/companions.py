"""Tells which projectors and adapters belong to which models: by the folder they share, or by their names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from localllm.models.discovery import Companion, Found

_SHORTEST_NAME = 3
"""Letters and digits of the shortest name by which a file is told to belong to a model."""


def companions_of(models: Sequence[Found], companions: Iterable[Companion]) -> dict[str, dict[str, Any]]:
    """Return by model id what to add to its facts: ``projector``, a path, and ``adapters``, a list of paths.

    All paths count from the folder of the model's own file.
    """
    homes: dict[str, list[Found]] = {}
    for model in models:
        homes.setdefault(model.candidate.home, []).append(model)
    facts: dict[str, dict[str, Any]] = {}
    for companion in sorted(companions, key=_preference):
        for model in _owners(companion, homes.get(companion.candidate.home, ())):
            path = os.path.relpath(companion.path, model.path.parent)
            own = facts.setdefault(model.id, {})
            if companion.role == "adapter":
                own.setdefault("adapters", []).append(path)
            else:
                own.setdefault("projector", path)
    return facts


def _preference(companion: Companion) -> tuple[bool, str]:
    """Of several projectors the half-precision one goes first: the full one is no better, and twice as large."""
    return "f16" not in companion.path.stem.lower(), companion.path.name


def _owners(companion: Companion, models: Sequence[Found]) -> list[Found]:
    fitting = [m for m in models if companion.role == "projector" or m.meta["arch"] == companion.architecture]
    if not companion.candidate.crowded:
        return fitting
    rated = [(_likeness(companion, model), model) for model in fitting]
    best = max((likeness for likeness, _ in rated), default=0)
    return [model for likeness, model in rated if likeness == best > 0]


def _likeness(companion: Companion, model: Found) -> int:
    """Return how many letters of a name both share; 0 when no name says that they belong together."""
    names = [name for name in model.names if len(name) >= _SHORTEST_NAME]
    return max(
        (len(name) for name in names if companion.file_name.startswith(name) or name in companion.names), default=0
    )
