from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm_llama_cpp.memory import CacheShape
from localllm_llama_cpp.pool_memory import PoolShape, PoolWanted, plan_pool, pool_bytes

GIB = 2**30
# A model such as bge-m3: texts of up to 8,192 tokens, a vocabulary of 250,002
ENCODER = PoolShape(250_002, 1024, 4096, 16, cut_texts=False, cache=CacheShape(0.0))
# and one such as Qwen3-Embedding-0.6B, of which each position leaves 112 KiB
DECODER = PoolShape(151_669, 1024, 3072, 16, cut_texts=True, cache=CacheShape(28 * 2 * 8 * 128 * 2.0))
LONG = PoolWanted(0, 8192, 256)


def test_with_memory_enough_a_text_may_be_as_long_as_the_model_allows() -> None:
    plan = plan_pool(LONG, ENCODER, 64 * GIB)
    assert (plan.context_length, plan.micro_batch, plan.notes) == (8192, 8192, ())


def test_an_encoder_computes_a_whole_text_at_once() -> None:
    assert plan_pool(replace(LONG, context_length=1000), ENCODER, 64 * GIB).micro_batch >= 1000


def test_a_decoder_computes_a_text_in_pieces() -> None:
    plan = plan_pool(LONG, DECODER, 64 * GIB)
    assert (plan.context_length, plan.micro_batch, plan.n_cells) == (8192, 256, 8192)


def test_scarce_memory_shortens_texts_and_says_so() -> None:
    plan = plan_pool(LONG, ENCODER, 2 * GIB)
    assert 512 < plan.context_length < 8192
    [note] = plan.notes
    assert note.startswith(
        f"context_length is {plan.context_length} instead of the model's own 8192: a text may take 2"
    )
    configured = plan_pool(replace(LONG, context_length=4096), ENCODER, 2 * GIB)
    assert "instead of the configured 4096" in configured.notes[0]


def test_learned_positions_end_where_they_end() -> None:
    plan = plan_pool(PoolWanted(1000, 512, 256, fixed_positions=True), ENCODER, 64 * GIB)
    assert plan.context_length == 512
    assert "512 instead of the configured 1000" in plan.notes[0]
    assert plan_pool(PoolWanted(1000, 512, 256), DECODER, 64 * GIB).context_length == 1000, "RoPE goes on"


def test_a_batch_of_short_texts_is_no_longer_than_a_text_may_be() -> None:
    plan = plan_pool(PoolWanted(100, 512, 256), ENCODER, 64 * GIB)
    assert (plan.batch_tokens, plan.batch_texts, plan.micro_batch) == (100, 25, 100)


def test_a_micro_batch_comes_out_even() -> None:
    plan = plan_pool(PoolWanted(300, 512, 256), ENCODER, 64 * GIB)
    assert (plan.context_length, plan.batch_texts, plan.micro_batch) == (300, 64, 320)


def test_recurrent_models_keep_few_states() -> None:
    shape = replace(DECODER, cache=CacheShape(0.0, state_bytes=1e6, recurrent_only=True), has_state=True)
    plan = plan_pool(LONG, shape, 64 * GIB)
    assert plan.batch_texts == 8
    assert pool_bytes(plan, shape) > pool_bytes(plan, replace(shape, cache=CacheShape(0.0))) + 8e6 - 1


def test_without_flash_attention_a_long_text_takes_far_more() -> None:
    plan = plan_pool(LONG, ENCODER, 64 * GIB)
    assert pool_bytes(plan, replace(ENCODER, flash_attention=False)) > pool_bytes(plan, ENCODER) + 4 * GIB


@given(
    budget=st.integers(0, 40 * GIB),
    own=st.integers(1, 40_000),
    context=st.one_of(st.just(0), st.integers(1, 40_000)),
    batch=st.integers(1, 4096),
    shape=st.sampled_from([ENCODER, DECODER, replace(ENCODER, flash_attention=False)]),
)
def test_every_plan_keeps_its_promises(budget, own, context, batch, shape) -> None:
    plan = plan_pool(PoolWanted(context, own, batch), shape, budget)
    full = context or own
    assert min(512, full) <= plan.context_length <= full
    assert 1 <= plan.batch_texts <= 256
    assert 1 <= plan.batch_tokens <= plan.micro_batch
    assert plan.micro_batch % plan.batch_texts == 0
    assert plan.n_cells >= max(plan.context_length, plan.micro_batch)
    if not shape.cut_texts:
        assert plan.micro_batch >= plan.context_length, "any text fits"
    if plan.context_length > min(512, full):
        assert pool_bytes(plan, shape) <= budget
    assert bool(plan.notes) == (plan.context_length < full)


@pytest.mark.parametrize("budget", [1 * GIB, 3 * GIB, 6 * GIB])
def test_no_memory_is_left_unused(budget) -> None:
    plan = plan_pool(LONG, ENCODER, budget)
    longer = replace(plan, context_length=plan.context_length + 64, micro_batch=plan.context_length + 64)
    assert pool_bytes(longer, ENCODER) > budget
