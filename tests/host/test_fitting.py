"""Which failures are about memory, and how much less of a model goes onto the GPU then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def smaller(wanted: Any, meta: dict[str, Any], detail: dict[str, Any]) -> int | None:
    settings = {} if wanted is None else {"n_gpu_layers": wanted, "mmap": True}
    spec = ModelSpec("m", "e", settings=settings, meta=meta)
    found = with_fewer_gpu_layers(spec, ModelLoadError("no", detail=detail))
    assert found is None or {**found.settings, "n_gpu_layers": None} == {"n_gpu_layers": None, "mmap": True}
    return None if found is None else found.settings["n_gpu_layers"]


@pytest.mark.parametrize(
    ("wanted", "planned", "fewer"), [("auto", 12, 6), ("auto", 1, 0), (-1, 33, 16), (20, 20, 10), ("auto", 0, None)]
)
def test_half_of_what_the_failed_plan_had_on_the_gpu(wanted: Any, planned: int, fewer: int | None) -> None:
    assert smaller(wanted, {"n_layer": 32}, {**MEMORY, "gpu_layers": planned}) == fewer


@pytest.mark.parametrize(
    ("wanted", "meta", "fewer"),
    [
        (-1, {"n_layer": 32}, 16),
        (20, {"n_layer": 32}, 10),
        (99, {"n_layer": 32}, 16),
        (20, {}, 10),
        (1, {}, 0),
        (-1, {}, 0),
        ("auto", {"n_layer": 33}, 0),
        (0, {"n_layer": 32}, None),
        (None, {"n_layer": 32}, None),
    ],
)
def test_a_worker_that_died_without_a_word_had_what_the_settings_say(
    wanted: Any, meta: dict[str, Any], fewer: int | None
) -> None:
    assert smaller(wanted, meta, {}) == fewer
    assert smaller(wanted, meta, {"device": "cpu"}) is None


@given(
    wanted=st.sampled_from(["auto", -1]) | st.integers(0, 200),
    n_layer=st.integers(1, 100),
    free=st.integers(0, 100),
    told=st.booleans(),
)
def test_the_next_try_always_takes_less(wanted: Any, n_layer: int, free: int, told: bool) -> None:
    """Whether the worker could say what it had planned or not."""
    layers = n_layer + 1
    planned = min(free, layers) if wanted == "auto" else layers if wanted == -1 else min(wanted, layers)
    again = smaller(wanted, {"n_layer": n_layer}, {"gpu_layers": planned} if told else {})
    assert again is None or 0 <= again < max(planned, 1)
    assert (again is not None) or planned == 0


@pytest.mark.parametrize(
    ("failures", "neighbours", "tries"),
    [
        ([MEMORY], True, [-1, -1]),
        ([MEMORY], False, [-1, 4]),
        ([MEMORY, MEMORY], True, [-1, -1, 4]),
        ([MEMORY, {**MEMORY, "gpu_layers": 6}], True, [-1, -1, 3]),
        ([MEMORY, MEMORY, MEMORY], True, [-1, -1, 4]),
        ([MEMORY, MEMORY], False, [-1, 4]),
        ([{**MEMORY, "device": "cpu"}] * 2, True, [-1, -1]),
        ([{}], True, [-1]),
        ([MEMORY, {}], True, [-1, -1]),
        ([MEMORY, {}], False, [-1, 4]),
    ],
)
def test_what_is_tried(failures: list[dict[str, Any]], neighbours: bool, tries: list[int]) -> None:
    asked: list[int] = []
    left = list(failures)
    looks = 0

    async def load(spec: ModelSpec) -> str:
        asked.append(spec.settings["n_gpu_layers"])
        if left:
            raise ModelLoadError("no", detail=left.pop(0))
        return "loaded"

    async def let_idle_go() -> bool:
        nonlocal looks
        looks += 1
        return neighbours

    spec = ModelSpec("m", "e", settings={"n_gpu_layers": -1}, meta={"n_layer": 8})
    if len(failures) >= len(tries):
        with pytest.raises(ModelLoadError, match="no"):
            asyncio.run(load_fitting(spec, load, let_idle_go))
    else:
        assert asyncio.run(load_fitting(spec, load, let_idle_go)) == "loaded"
    assert asked == tries
    assert looks <= 1
