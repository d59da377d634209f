"""Each setting arrives in the library's own structures, under the name that it has there."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from localllm_llama_cpp.memory import MemoryPlan
from localllm_llama_cpp.native_params import context_params, model_params, pool_context_params
from localllm_llama_cpp.pool_memory import PoolPlan
from localllm_llama_cpp.settings import LlamaCppSettings

PLAN = MemoryPlan("streams", context_length=512, parallel=3, cached_sequences=2, n_ctx=2560, kv_bytes=0)
POOL_PLAN = PoolPlan(512, batch_tokens=256, batch_texts=64, micro_batch=512, n_cells=1024, cut_texts=False)
MODEL_BYTES = 1 << 30

# setting: a value that is not the default, the library's field, and what must stand there
OF_THE_MODEL: dict[str, tuple[Any, str, Any]] = {
    "n_gpu_layers": (7, "n_gpu_layers", 7),
    "main_gpu": (1, "main_gpu", 1),
    "split_mode": ("row", "split_mode", 2),
    "mmap": (False, "load_mode", 0),
    "mlock": (True, "load_mode", 3),
}
OF_THE_CONTEXT: dict[str, tuple[Any, str, Any]] = {
    "n_batch": (96, "n_batch", 96),
    "n_ubatch": (48, "n_ubatch", 48),
    "threads": (3, "n_threads", 3),
    "threads_batch": (5, "n_threads_batch", 5),
    "flash_attention": (True, "flash_attn_type", 1),
    "cache_type_k": ("q8_0", "type_k", 8),
    "cache_type_v": ("bf16", "type_v", 30),
    "offload_kqv": (False, "offload_kqv", False),
    "swa_full": (True, "swa_full", True),
    "rope_scaling_type": ("linear", "rope_scaling_type", 1),
    "rope_freq_base": (20_000.0, "rope_freq_base", 20_000.0),
    "rope_freq_scale": (0.25, "rope_freq_scale", 0.25),
    "yarn_ext_factor": (0.5, "yarn_ext_factor", 0.5),
    "yarn_attn_factor": (1.5, "yarn_attn_factor", 1.5),
    "yarn_beta_fast": (16.0, "yarn_beta_fast", 16.0),
    "yarn_beta_slow": (2.0, "yarn_beta_slow", 2.0),
    "yarn_orig_ctx": (1024, "yarn_orig_ctx", 1024),
}
ELSEWHERE = {"tensor_split", "context_length", "parallel", "cached_sequences", "kv_layout", "memory_fraction"} | {
    "max_step_ms",
    "seed",
    "pooling",
    "pool_batch_tokens",
    "chat_format",
    "chat_template_file",
    "lora",
    "saved_state_ram_mib",
    "saved_state_disk_mib",
    "huge_pages",
}
"""Tested below, or in the memory plan, the loader and the sampler."""


def test_every_setting_has_its_test() -> None:
    assert {*OF_THE_MODEL, *OF_THE_CONTEXT, *ELSEWHERE} == {
        field.name for field in dataclasses.fields(LlamaCppSettings)
    }


@pytest.mark.parametrize("name", OF_THE_MODEL)
def test_a_setting_of_the_model(name: str) -> None:
    value, field, expected = OF_THE_MODEL[name]
    usual, _ = model_params(LlamaCppSettings(), safe_mode=False)
    params, _ = model_params(LlamaCppSettings(**{name: value}), safe_mode=False)
    assert getattr(usual, field) != expected
    assert getattr(params, field) == expected


@pytest.mark.parametrize("name", OF_THE_CONTEXT)
def test_a_setting_of_the_context(name: str) -> None:
    value, field, expected = OF_THE_CONTEXT[name]
    assert getattr(context_params(LlamaCppSettings(), PLAN, MODEL_BYTES), field) != expected
    assert getattr(context_params(LlamaCppSettings(**{name: value}), PLAN, MODEL_BYTES), field) == expected


def test_a_split_among_gpus() -> None:
    params, keep_alive = model_params(LlamaCppSettings(tensor_split=[3.0]), safe_mode=False)
    assert params.tensor_split[0] == 3.0
    assert len(keep_alive) == 1, "the library keeps a pointer"


def test_safe_mode_repacks_no_weights() -> None:
    usual, _ = model_params(LlamaCppSettings(), safe_mode=False)
    safe, _ = model_params(LlamaCppSettings(), safe_mode=True)
    assert (usual.use_extra_bufts, safe.use_extra_bufts) == (True, False)


@pytest.mark.parametrize("layout", ["unified", "streams"])
def test_the_plan_sizes_the_context(layout: Any) -> None:
    params = context_params(LlamaCppSettings(), dataclasses.replace(PLAN, layout=layout), MODEL_BYTES)
    assert (params.n_ctx, params.n_seq_max, params.n_outputs_max) == (2560, 5, 64)
    assert params.kv_unified == (layout == "unified")
    many = dataclasses.replace(PLAN, layout=layout, cached_sequences=100)
    assert context_params(LlamaCppSettings(), many, MODEL_BYTES).n_outputs_max == many.n_seq_max


def test_threads_for_batches_follow_those_for_single_tokens() -> None:
    params = context_params(LlamaCppSettings(threads=3), PLAN, MODEL_BYTES)
    assert (params.n_threads, params.n_threads_batch) == (3, 3)


@pytest.mark.parametrize(("kind", "number"), [("mean", 1), ("cls", 2), ("last", 3), ("rank", 4)])
def test_the_plan_sizes_the_context_for_pooling(kind: Any, number: int) -> None:
    params = pool_context_params(LlamaCppSettings(n_batch=64, n_ubatch=32, parallel=3), POOL_PLAN, kind, MODEL_BYTES)
    assert (params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch) == (1024, 64, 512, 512)
    assert (params.pooling_type, params.embeddings, params.kv_unified) == (number, True, True)


@pytest.mark.parametrize("cut_texts", [False, True])
def test_only_a_context_with_a_cache_has_a_type_of_cache(cut_texts: bool) -> None:
    settings = LlamaCppSettings(cache_type_k="q8_0", cache_type_v="q8_0")
    plan = dataclasses.replace(POOL_PLAN, cut_texts=cut_texts)
    params = pool_context_params(settings, plan, "mean", MODEL_BYTES)
    assert (params.type_k, params.type_v) == ((8, 8) if cut_texts else (1, 1))


def test_threads_and_flash_attention_are_those_of_generation() -> None:
    settings = LlamaCppSettings(threads=3, threads_batch=5, flash_attention=True)
    params = pool_context_params(settings, POOL_PLAN, "mean", MODEL_BYTES)
    assert (params.n_threads, params.n_threads_batch, params.flash_attn_type) == (3, 5, 1)
