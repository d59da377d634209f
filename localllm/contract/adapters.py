"""Sets of adapters: requests of different sets never share a step or a cached prefix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

USUAL_ADAPTERS = ""
"""The group of requests that say nothing of adapters: the model's adapters count as configured."""


@dataclass(frozen=True, slots=True)
class AdapterScale:
    """How strongly one adapter counts in a request: the one with this name, or with this place in the model's list."""

    scale: float
    name: str | None = None
    index: int | None = None


def adapter_group(scales: Sequence[float], usual: Sequence[float]) -> str:
    """Return what stands for a set of scales, one for each of the model's adapters, in engines and in plans."""
    return USUAL_ADAPTERS if tuple(scales) == tuple(usual) else json.dumps([float(scale) for scale in scales])


def scales_of(group: str, usual: Sequence[float]) -> tuple[float, ...]:
    """Undo :func:`adapter_group`."""
    return tuple(usual) if group == USUAL_ADAPTERS else tuple(json.loads(group))
