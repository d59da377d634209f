"""What a model is said to take before it is loaded, against what its worker measures then."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from localllm import LoadRequest, MemoryUse, Mode, ModelInfo, ModelSpec
from localllm.contract.wire import Hello
from localllm.host.client import ClientLimits
from localllm.host.environment import worker_environment
from localllm.host.launch import LaunchSettings, launch_worker
from localllm.host.process import WorkerCommand
from localllm_llama_cpp import memory_estimate as module
from localllm_llama_cpp.memory_estimate import estimate
from localllm_llama_cpp.model_facts import MAX_LAYERS, read_facts
from tests.plugins.llama_cpp.memory_kit import SHAPES, Shape, dense, spec_of

FULL = bool(os.environ.get("LOCALLLM_TEST_FULL"))
DAILY = (
    "dense, small vocabulary",
    "dense, large vocabulary",
    "grouped queries, deep",
    "long context",
    "adapter",
    "encoder",
    "recurrent",
    "sliding window",
)
GIB = 2**30


def load_in_a_worker(spec: ModelSpec, mode: Mode) -> ModelInfo:
    async def load() -> ModelInfo:
        hello = Hello("localllm_llama_cpp.loader:load", LoadRequest("model", spec.path, mode, spec.settings))
        command = WorkerCommand("model", worker_environment(os.environ))
        client = await launch_worker(command, hello, LaunchSettings(ClientLimits()))
        try:
            return client.info
        finally:
            await client.close()

    return asyncio.run(load())


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process took for itself")
@pytest.mark.parametrize("name", SHAPES if FULL else DAILY)
def test_the_estimate_is_what_the_worker_measures(name: str, tmp_path: Path) -> None:
    shape: Shape = SHAPES[name]
    spec = shape.make(tmp_path)
    told = estimate(spec, shape.mode)
    measured = load_in_a_worker(spec, shape.mode).memory
    assert told is not None
    assert measured is not None
    assert told.total_bytes == pytest.approx(measured.total_bytes, rel=0.15)
    assert told.cache_bytes == pytest.approx(measured.cache_bytes, rel=0.01)
    assert told.weights_bytes == pytest.approx(measured.weights_bytes, rel=0.15, abs=2**20)
    # Without the interpreter and its libraries, which are the same for all:
    own = module.PROCESS_BYTES
    assert told.total_bytes - own == pytest.approx(measured.total_bytes - own, rel=0.15, abs=8 * 2**20)


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process took for itself")
def test_what_is_measured_is_what_the_process_takes_once_everything_was_touched(tmp_path: Path) -> None:
    """Weights that are read instead of mapped, a cache and buffers: the process must hold about what it says."""
    path = dense(n_vocab=2048, n_layer=8)(tmp_path / "model.gguf")
    program = """
import sys
from localllm import LoadRequest, Mode
from localllm.worker.self_test import run_self_test
from localllm_llama_cpp.loader import load
from localllm_llama_cpp.memory_meter import anonymous_bytes
model = load(LoadRequest("m", sys.argv[1], Mode.GENERATE, {"mmap": False, "threads": 1}))
run_self_test(model, "m")
print(model.info.memory.total_bytes, anonymous_bytes())
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    said, took = map(int, done.stdout.split())
    assert took <= said * 1.1
    assert took >= said * 0.6  # a graph for whole batches was reserved, and 48 tokens touch little of it


def test_adapters_count_and_those_that_are_not_there_are_for_the_loader_to_tell(tmp_path: Path) -> None:
    path = dense(n_vocab=2048)(tmp_path / "model.gguf")
    bare = estimate(spec_of(path, {}), Mode.GENERATE)
    (tmp_path / "a.gguf").write_bytes(bytes(5000))
    (tmp_path / "b.gguf").write_bytes(bytes(300))
    adapters = [{"path": str(tmp_path / name), "scale": 0.0} for name in ("a.gguf", "b.gguf", "none.gguf")]
    told = estimate(spec_of(path, {"lora": adapters}), Mode.GENERATE)
    assert bare is not None
    assert told is not None
    assert told.total_bytes == bare.total_bytes + 5300


def test_neither_the_library_nor_the_file_is_needed(tmp_path: Path) -> None:
    spec = spec_of(dense(n_vocab=2048)(tmp_path / "model.gguf"), {})
    (tmp_path / "model.gguf").unlink()
    assert estimate(spec, Mode.GENERATE) is not None
    program = "import sys, localllm_llama_cpp.memory_estimate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"llama_cpp", "numpy", "jinja2"}.isdisjoint(loaded)


def test_a_context_that_no_memory_would_hold_is_counted_as_it_will_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(dense(n_vocab=2048)(tmp_path / "model.gguf"), {"context_length": 1_000_000})
    monkeypatch.setattr(module, "total_memory_bytes", lambda: 2 * GIB)
    told = estimate(spec, Mode.GENERATE)
    assert told is not None
    assert 1.3 * GIB < told.cache_bytes <= 1.5 * GIB  # three quarters


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"hyperparameters": {}},
        {"hyperparameters": {"block_count": 10**9, "embedding_length": 64}},
        {"hyperparameters": {"block_count": 2, "embedding_length": float("nan")}},
        {"hyperparameters": {"block_count": 2, "embedding_length": 64, "attention.head_count": [4, -1]}},
    ],
)
def test_a_header_that_says_nothing_useful_gives_no_estimate(meta: dict[str, object]) -> None:
    assert estimate(ModelSpec("model", "llama_cpp", meta={"arch": "llama", **meta}), Mode.GENERATE) is None


def test_wrong_settings_are_for_the_loader_to_tell(tmp_path: Path) -> None:
    spec = spec_of(dense(n_vocab=2048)(tmp_path / "model.gguf"), {"no_such_key": 1})
    assert estimate(spec, Mode.GENERATE) is None


numbers = st.one_of(st.integers(-5, 2**40), st.floats(allow_nan=True), st.booleans())
keys = st.sampled_from(
    [
        *("block_count", "embedding_length", "feed_forward_length", "context_length", "attention.head_count"),
        *("attention.head_count_kv", "attention.key_length", "attention.sliding_window", "ssm.state_size"),
        *("attention.sliding_window_pattern", "expert_count", "expert_used_count", "attention.shared_kv_layers"),
    ]
)
architectures = st.sampled_from(["llama", "mamba", "jamba", "gemma3", "qwen3next", "bert", "deepseek2", "x"])


usual_headers = st.fixed_dictionaries({"block_count": st.integers(1, 8), "embedding_length": st.just(64)})
odd_headers = st.dictionaries(keys, st.one_of(numbers, st.lists(numbers, max_size=8).map(tuple)))


@given(architectures, odd_headers | st.builds(dict.__or__, usual_headers, odd_headers))
@example("llama", {"block_count": 1, "embedding_length": 1, "attention.sliding_window_pattern": float("inf")})
def test_no_header_breaks_the_estimate(architecture: str, header: dict[str, object]) -> None:
    spec = ModelSpec("model", "llama_cpp", meta={"arch": architecture, "size": 100, "hyperparameters": header})
    for mode in Mode:
        told = estimate(spec, mode)
        assert told is None or isinstance(told, MemoryUse)


# --- layers ----------------------------------------------------------------------------------------------------------


def facts(architecture: str, **header: object):
    usual = {"block_count": 6, "embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2}
    named = {key.replace("__", "."): value for key, value in header.items()}
    return read_facts(architecture, {**usual, **named}.get, 100)


def test_layers_may_differ_in_their_heads() -> None:
    found = facts("llama", attention__head_count_kv=(2, 2, 1, 1, 4, 4))
    assert [layer.keys for layer in found.layers] == [32, 32, 16, 16, 64, 64]
    assert found.cache_shape("f16", "q8_0").cell_bytes == 224 * (2 + 34 / 32)


def test_windowed_layers_are_told_by_a_period_or_one_by_one() -> None:
    by_period = facts("gemma3", attention__sliding_window=512)
    assert [layer.windowed for layer in by_period.layers] == [True] * 5 + [False]
    by_list = facts("gemma4", attention__sliding_window=512, attention__sliding_window_pattern=(1, 0, 1, 0, 1, 0))
    assert [layer.windowed for layer in by_list.layers] == [True, False] * 3
    assert not any(layer.windowed for layer in facts("phi3", attention__sliding_window=512).layers)


def test_of_a_hybrid_only_the_attending_layers_have_cells() -> None:
    header = {"ssm__inner_size": 128, "ssm__state_size": 16, "ssm__conv_kernel": 4, "ssm__group_count": 0}
    found = facts("jamba", attention__head_count_kv=(0, 0, 2, 0, 0, 2), **header)
    assert [bool(layer.keys) for layer in found.layers] == [False, False, True, False, False, True]
    assert [bool(layer.state) for layer in found.layers] == [True, True, False, True, True, False]
    interval = facts("qwen3next", full_attention_interval=3, **header)
    assert [bool(layer.keys) for layer in interval.layers] == [False, False, True, False, False, True]


def test_latent_attention_keeps_one_vector() -> None:
    found = facts("deepseek2", attention__key_length=576, attention__head_count_kv=1, attention__key_length_mla=192)
    assert [(layer.keys, layer.values) for layer in found.layers] == [(576, 0)] * 6


def test_layers_that_use_others_cells_have_none() -> None:
    found = facts("gemma3n", attention__shared_kv_layers=2)
    assert [bool(layer.keys) for layer in found.layers] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("n_layer", [0, MAX_LAYERS + 1])
def test_a_number_of_layers_that_cannot_be_is_refused(n_layer: int) -> None:
    with pytest.raises(ValueError, match=f"{n_layer} layers"):
        facts("llama", block_count=n_layer)


def test_the_estimate_stays_the_same_whatever_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry takes what was measured for it as long as the estimate is the same."""
    spec = spec_of(dense(n_vocab=2048)(tmp_path / "model.gguf"), {})
    before = estimate(spec, Mode.GENERATE)
    monkeypatch.setattr("localllm_llama_cpp.hardware.available_memory_bytes", lambda: 1)
    assert estimate(replace(spec), Mode.GENERATE) == before
