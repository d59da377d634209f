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

_MEMORY_WORDS = re.compile(
    r"bad_alloc|MemoryError|out of memory|(failed|unable) to allocate|cannot allocate memory", re.IGNORECASE
)
_ALL_LAYERS = frozenset({-1, "auto"})

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


def with_fewer_gpu_layers(spec: ModelSpec) -> ModelSpec | None:
    """Return ``spec`` with half of its layers on the GPU, or none where their number is unknown.

    None when it has no such setting, or none there already.
    """
    wanted = spec.settings.get("n_gpu_layers", 0)
    if wanted in _ALL_LAYERS:
        n_layer = spec.meta.get("n_layer")
        wanted = n_layer + 1 if isinstance(n_layer, int) else 1  # the output layer counts as one
    if not isinstance(wanted, int) or wanted <= 0:
        return None
    return replace(spec, settings={**spec.settings, "n_gpu_layers": wanted // 2})


async def load_fitting(
    spec: ModelSpec, load: Callable[[ModelSpec], Awaitable[T]], let_idle_go: Callable[[], Awaitable[bool]]
) -> T:
    """Load ``spec``; for lack of memory once more without idle neighbours, then once more with fewer GPU layers.

    ``let_idle_go`` returns whether any model was let go. Raises what the last try raised.
    """
    try:
        return await load(spec)
    except LocalLLMError as error:
        if not lacks_memory(error):
            raise
        failure = error
    if await let_idle_go():
        _logger.warning("%s lacked memory; idle models were let go, and it is tried again", spec.id)
        try:
            return await load(spec)
        except LocalLLMError as error:
            if not lacks_memory(error):
                raise
            failure = error
    smaller = None if failure.detail.get("device") == "cpu" else with_fewer_gpu_layers(spec)
    if smaller is None:
        raise failure
    n_layers = smaller.settings["n_gpu_layers"]
    _logger.warning(
        "%s lacked memory; it is tried again with n_gpu_layers = %d, slower than it could be", spec.id, n_layers
    )
    return await load(smaller)
