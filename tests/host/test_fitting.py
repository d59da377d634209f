"""Which failures are about memory, and how much less of a model goes onto the GPU then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from localllm.contract.errors import LocalLLMError, ModelFileError, ModelLoadError
from localllm.contract.model import ModelSpec
from localllm.host.fitting import lacks_memory, load_fitting, with_fewer_gpu_layers

MEMORY = {"reason": "memory"}


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (ModelLoadError("x", detail=MEMORY), True),
        (ModelFileError("x", detail=MEMORY), True),
        (ModelLoadError("ended by SIGABRT while loading: terminate called: std::bad_alloc"), True),
        (ModelLoadError("Loading model 'm' failed: MemoryError: "), True),
        (ModelLoadError("ggml_backend_cuda_buffer_type_alloc_buffer: failed to allocate 9 MiB: out of memory"), True),
        (ModelLoadError("out of memory", detail={"reason": "arguments"}), False),
        (ModelLoadError("the settings are wrong"), False),
        (ModelFileError("tensor 'out of memory' is cut off"), False),
    ],
)
def test_what_is_about_memory(error: LocalLLMError, is_memory: bool) -> None:
    assert lacks_memory(error) is is_memory


@pytest.mark.parametrize(
    ("wanted", "meta", "fewer"),
    [
        (-1, {"n_layer": 32}, 16),
        ("auto", {"n_layer": 33}, 17),
        (20, {"n_layer": 32}, 10),
        (1, {}, 0),
        (-1, {}, 0),
        (0, {"n_layer": 32}, None),
        (None, {"n_layer": 32}, None),
    ],
)
def test_half_of_what_was_on_the_gpu(wanted: Any, meta: dict[str, Any], fewer: int | None) -> None:
    settings = {} if wanted is None else {"n_gpu_layers": wanted, "mmap": True}
    smaller = with_fewer_gpu_layers(ModelSpec("m", "e", settings=settings, meta=meta))
    assert (None if smaller is None else smaller.settings) == (
        None if fewer is None else {"n_gpu_layers": fewer, "mmap": True}
    )


@pytest.mark.parametrize(
    ("failures", "neighbours", "tries"),
    [
        ([MEMORY], True, [-1, -1]),
        ([MEMORY], False, [-1, 4]),
        ([MEMORY, MEMORY], True, [-1, -1, 4]),
        ([MEMORY, MEMORY, MEMORY], True, [-1, -1, 4]),
        ([{**MEMORY, "device": "cpu"}] * 2, True, [-1, -1]),
        ([{}], True, [-1]),
        ([MEMORY, {}], True, [-1, -1]),
    ],
)
def test_what_is_tried(failures: list[dict[str, str]], neighbours: bool, tries: list[int]) -> None:
    asked: list[int] = []
    left = list(failures)

    async def load(spec: ModelSpec) -> str:
        asked.append(spec.settings["n_gpu_layers"])
        if left:
            raise ModelLoadError("no", detail=left.pop(0))
        return "loaded"

    async def let_idle_go() -> bool:
        return neighbours

    spec = ModelSpec("m", "e", settings={"n_gpu_layers": -1}, meta={"n_layer": 8})
    if len(failures) >= len(tries):
        with pytest.raises(ModelLoadError, match="no"):
            asyncio.run(load_fitting(spec, load, let_idle_go))
    else:
        assert asyncio.run(load_fitting(spec, load, let_idle_go)) == "loaded"
    assert asked == tries
