from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm_llama_cpp.memory import (
    CELL_STEP,
    OWN_POOL_CELLS,
    SMALLEST_CONTEXT,
    CacheShape,
    Wanted,
    copy_cost_tokens,
    kv_bytes,
    plan_memory,
)

KIB, GIB = 1024, 1024**3
SHAPE = CacheShape(cell_bytes=32 * KIB)
WANTED = Wanted(context_length=4096, n_ctx_train=8192, parallel=4, cached_sequences=8, layout="unified", n_ubatch=512)

shapes = st.builds(
    CacheShape,
    cell_bytes=st.floats(256, 256 * KIB),
    window_cell_bytes=st.sampled_from([0.0, 4096.0]),
    n_swa=st.sampled_from([0, 512, 4096]),
    state_bytes=st.sampled_from([0.0, 1024.0 * KIB]),
)
wishes = st.builds(
    Wanted,
    context_length=st.one_of(st.just(0), st.integers(1, 200_000)),
    n_ctx_train=st.integers(256, 200_000),
    parallel=st.integers(1, 64),
    cached_sequences=st.integers(0, 64),
    layout=st.sampled_from(["auto", "unified", "streams"]),
    n_ubatch=st.sampled_from([64, 512]),
    swa_full=st.booleans(),
)


@given(wishes, shapes, st.integers(0, 64 * GIB))
def test_a_plan_fits_the_budget_or_is_the_smallest_there_is(wanted, shape, budget_bytes):
    plan = plan_memory(wanted, shape, budget_bytes)
    asked = wanted.context_length or wanted.n_ctx_train
    assert 0 < plan.context_length <= asked
    assert plan.parallel == wanted.parallel
    assert 0 <= plan.cached_sequences <= wanted.cached_sequences
    streams = plan.n_seq_max if plan.layout == "streams" else 1
    assert plan.n_ctx % streams == 0
    assert plan.n_ctx // streams >= plan.context_length
    assert plan.n_ctx // streams % CELL_STEP == 0
    smallest = plan.context_length <= SMALLEST_CONTEXT or plan.context_length == asked <= SMALLEST_CONTEXT
    assert plan.kv_bytes <= budget_bytes + 1 or smallest


@given(wishes, shapes, st.integers(0, 64 * GIB))
def test_whatever_gave_way_is_said(wanted, shape, budget_bytes):
    plan = plan_memory(wanted, shape, budget_bytes)
    told = " ".join(plan.notes)
    asked = wanted.context_length or wanted.n_ctx_train
    assert ("context_length is" in told) == (plan.context_length < asked)
    assert ("cached_sequences is" in told) == (plan.cached_sequences < wanted.cached_sequences)


@given(wishes, shapes, st.integers(0, 32 * GIB), st.integers(0, 32 * GIB))
def test_more_memory_never_gives_less(wanted, shape, budget_bytes, more_bytes):
    layout = plan_memory(wanted, shape, budget_bytes).layout
    wanted = replace(wanted, layout=layout)  # "auto" may choose another one with more memory
    less, more = plan_memory(wanted, shape, budget_bytes), plan_memory(wanted, shape, budget_bytes + more_bytes)
    assert more.context_length >= less.context_length
    assert more.cached_sequences >= less.cached_sequences


def test_with_room_enough_a_pool_holds_all_whole_contexts():
    plan = plan_memory(WANTED, SHAPE, 64 * GIB)
    assert (plan.n_ctx, plan.context_length, plan.cached_sequences, plan.notes) == (4 * 4096, 4096, 8, ())


def test_a_pool_shrinks_before_the_context_does():
    plan = plan_memory(WANTED, SHAPE, 6000 * 32 * KIB)
    assert plan.context_length == 4096
    assert plan.n_ctx == 5888  # the largest multiple of 256 that fits
    assert "share 5888 KV cells" in plan.notes[0]


def test_streams_give_up_cached_sequences_first_and_then_context():
    wanted = replace(WANTED, layout="streams")
    one_context = 4096 * 32 * KIB
    plan = plan_memory(wanted, SHAPE, 7 * one_context)
    assert (plan.cached_sequences, plan.context_length, plan.n_ctx) == (3, 4096, 7 * 4096)
    plan = plan_memory(wanted, SHAPE, 2 * one_context)
    assert (plan.cached_sequences, plan.context_length, plan.n_ctx) == (0, 2048, 4 * 2048)
    assert "cached_sequences is 0 instead of 8" in plan.notes[0]
    assert "context_length is 2048 instead of the configured 4096" in plan.notes[1]


def test_the_models_own_context_is_taken_where_none_is_configured():
    plan = plan_memory(replace(WANTED, context_length=0), SHAPE, 64 * GIB)
    assert plan.context_length == 8192


def test_a_long_context_that_nobody_asked_for_gets_one_whole_pool_not_four():
    wanted = replace(WANTED, context_length=0, n_ctx_train=131_072)
    assert plan_memory(wanted, SHAPE, 640 * GIB).n_ctx == 131_072
    wanted = replace(WANTED, context_length=0, n_ctx_train=32_768)
    assert plan_memory(wanted, SHAPE, 640 * GIB).n_ctx == OWN_POOL_CELLS


def test_a_request_may_use_exactly_what_was_configured_though_cells_are_rounded_up():
    plan = plan_memory(replace(WANTED, context_length=1000), SHAPE, 64 * GIB)
    assert (plan.context_length, plan.n_ctx) == (1000, 4 * 1024)


@pytest.mark.parametrize(
    ("parallel", "context", "budget_bytes", "layout"),
    [
        (4, 2048, 64 * GIB, "unified"),  # few answers: sharing is worth more
        (32, 2048, 64 * GIB, "streams"),
        (32, 2048, 1 * GIB, "unified"),  # whole contexts for all don't fit
        (32, 32_768, 640 * GIB, "unified"),  # copies of such streams cost too much
    ],
)
def test_auto_chooses_streams_for_many_short_contexts_that_fit(parallel, context, budget_bytes, layout):
    wanted = replace(WANTED, layout="auto", parallel=parallel, context_length=context)
    assert plan_memory(wanted, SHAPE, budget_bytes).layout == layout


def test_auto_keeps_every_position_of_a_full_size_window_by_streams():
    shape = CacheShape(cell_bytes=8 * KIB, window_cell_bytes=24 * KIB, n_swa=512)
    assert plan_memory(replace(WANTED, layout="auto", swa_full=True), shape, 64 * GIB).layout == "streams"


def test_a_window_costs_its_own_width_not_the_whole_context():
    shape = CacheShape(cell_bytes=8 * KIB, window_cell_bytes=24 * KIB, n_swa=512)
    plan = plan_memory(replace(WANTED, parallel=1, cached_sequences=0, context_length=32_768), shape, 64 * GIB)
    assert plan.kv_bytes == 32_768 * 8 * KIB + 1024 * 24 * KIB


def test_a_recurrent_model_pays_by_sequence_not_by_token():
    shape = CacheShape(cell_bytes=0, state_bytes=1024 * KIB, recurrent_only=True)
    plan = plan_memory(replace(WANTED, layout="auto", context_length=1_000_000), shape, 12 * 1024 * KIB)
    assert (plan.context_length, plan.cached_sequences, plan.layout) == (1_000_000, 8, "unified")
    plan = plan_memory(replace(WANTED, layout="auto", context_length=1_000_000), shape, 6 * 1024 * KIB)
    assert plan.cached_sequences == 2
    assert kv_bytes(plan, WANTED, shape) <= 6 * 1024 * KIB


def test_copies_of_longer_streams_cost_more():
    assert copy_cost_tokens(256) <= copy_cost_tokens(2048) < copy_cost_tokens(16_384) < 1000
