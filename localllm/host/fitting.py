"""What is tried when a model can't be loaded for lack of memory: without its neighbours, then with less on the GPU."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from localllm.contract.errors import LocalLLMError, ModelLoadError
from localllm.contract.model import ModelSpec

MEMORY_REASON = "memory"
"""``detail["reason"]`` of a load error that says that memory was short. ``detail["device"]`` "cpu": not the GPU's."""

PLANNED_LAYERS = "gpu_layers"
"""In the same detail: how many layers, the output layer counted, were to go onto GPUs."""

_MEMORY_WORDS = re.compile(
    r"bad_alloc|MemoryError|out of memory|(failed|unable) to allocate|cannot allocate memory", re.IGNORECASE
)
_ALL_LAYERS = -1

_logger = logging.getLogger("localllm.host")

T = TypeVar("T")


def says_memory(text: str) -> bool:
    """Whether the last words of a worker, or an error's message, speak of memory that was not there."""
    return _MEMORY_WORDS.search(text) is not None


def lacks_memory(error: LocalLLMError) -> bool:
    """Whether loading failed because there was too little memory."""
    if error.detail.get("reason") == MEMORY_REASON:
        return True
    return isinstance(error, ModelLoadError) and "reason" not in error.detail and says_memory(error.message)


def with_fewer_gpu_layers(spec: ModelSpec, failure: LocalLLMError) -> ModelSpec | None:
    """Return ``spec`` with half of the layers on the GPU that the load which failed had there.

    A worker that died could not say how many "auto" was: none then, for any other number may be more than it had.
    None when the engine has no such setting, or had none there already.
    """
    planned = failure.detail.get(PLANNED_LAYERS)
    if not isinstance(planned, int):
        planned = _wanted_layers(spec)
    if "n_gpu_layers" not in spec.settings or planned <= 0 or failure.detail.get("device") == "cpu":
        return None
    return replace(spec, settings={**spec.settings, "n_gpu_layers": planned // 2})


def _wanted_layers(spec: ModelSpec) -> int:
    """Return how many layers the settings put onto the GPU; 1, of which half is none, where they don't tell."""
    wanted, n_layer = spec.settings.get("n_gpu_layers"), spec.meta.get("n_layer")
    if wanted == "auto" or not isinstance(wanted, int):
        return 1
    if not isinstance(n_layer, int):
        return 1 if wanted == _ALL_LAYERS else wanted
    layers = n_layer + 1  # the output layer counts as one
    return layers if wanted == _ALL_LAYERS else min(wanted, layers)


async def load_fitting(
    spec: ModelSpec, load: Callable[[ModelSpec], Awaitable[T]], let_idle_go: Callable[[], Awaitable[bool]]
) -> T:
    """Load ``spec``; for lack of memory once more without idle neighbours, then once more with fewer GPU layers.

    ``let_idle_go`` returns whether any model was let go. Raises what the last try raised.
    """
    attempt, neighbours_asked = spec, False
    while True:
        try:
            return await load(attempt)
        except LocalLLMError as error:
            if not lacks_memory(error) or attempt is not spec:
                raise
            failure = error
        if not neighbours_asked:
            neighbours_asked = True
            if await let_idle_go():
                _logger.warning("%s lacked memory; idle models were let go, and it is tried again", spec.id)
                continue
        smaller = with_fewer_gpu_layers(spec, failure)
        if smaller is None:
            raise failure
        n_layers = smaller.settings["n_gpu_layers"]
        _logger.warning(
            "%s lacked memory; it is tried again with n_gpu_layers = %d, slower than it could be", spec.id, n_layers
        )
        attempt = smaller
