"""Prefill budgets settle where a step takes as long as it may."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.engine.pacing import MIN_PREFILL_TOKENS, PrefillPacer, share_budget


def test_a_prompt_alone_gets_the_whole_batch() -> None:
    assert PrefillPacer(n_batch=512, step_seconds=0.2).budget(decoding=False) == 512


def test_before_any_measurement_a_prompt_gets_the_minimum_beside_answers() -> None:
    assert PrefillPacer(n_batch=512, step_seconds=0.2).budget(decoding=True) == MIN_PREFILL_TOKENS


@pytest.mark.parametrize(("fixed_seconds", "seconds_per_token"), [(0.0, 0.001), (0.06, 0.0008), (0.15, 0.002)])
def test_the_budget_settles_at_the_wanted_step_time(fixed_seconds: float, seconds_per_token: float) -> None:
    pacer = PrefillPacer(n_batch=2048, step_seconds=0.2)
    for _ in range(60):
        budget = pacer.budget(decoding=True)
        pacer.observe(budget, fixed_seconds + budget * seconds_per_token)
    ideal = (0.2 - fixed_seconds) / seconds_per_token
    assert budget == pytest.approx(max(MIN_PREFILL_TOKENS, ideal), rel=0.1)


def test_a_machine_too_slow_for_the_wanted_step_still_prefills() -> None:
    pacer = PrefillPacer(n_batch=512, step_seconds=0.2)
    for _ in range(20):
        pacer.observe(pacer.budget(decoding=True), 3.0)
    assert pacer.budget(decoding=True) == MIN_PREFILL_TOKENS


def test_one_slow_step_is_forgotten() -> None:
    pacer = PrefillPacer(n_batch=512, step_seconds=0.2)
    pacer.observe(512, 0.5)
    usual = pacer.budget(decoding=True)
    pacer.observe(usual, 20.0)
    for _ in range(12):
        budget = pacer.budget(decoding=True)
        pacer.observe(budget, budget / 1024)
    assert pacer.budget(decoding=True) == pytest.approx(usual, rel=0.1)


def test_steps_with_few_prompt_tokens_say_nothing_about_speed() -> None:
    pacer = PrefillPacer(n_batch=512, step_seconds=0.2)
    pacer.observe(512, 0.5)
    before = pacer.budget(decoding=True)
    pacer.observe(1, 0.1)
    pacer.observe(0, 0.1)
    pacer.observe(100, 0.0)
    assert pacer.budget(decoding=True) == before


def test_the_batch_bounds_the_budget() -> None:
    pacer = PrefillPacer(n_batch=64, step_seconds=0.2)
    pacer.observe(64, 0.001)
    assert pacer.budget(decoding=True) == 64


@pytest.mark.parametrize(
    ("budget", "pending", "parts"),
    [
        (100, [300], [100]),
        (100, [30, 30, 60], [30, 30, 40]),
        (100, [300, 300], [100, 0]),
        (100, [300, 20], [80, 20]),
        (100, [300, 90, 20], [50, 30, 20]),
        (7, [300, 90], [4, 3]),
        (1, [300, 1], [1, 0]),
        (100, [], []),
    ],
)
def test_a_budget_is_shared_by_age_but_short_prompts_get_through(
    budget: int, pending: list[int], parts: list[int]
) -> None:
    assert share_budget(budget, pending) == parts


@settings(deadline=None)
@given(st.integers(0, 200), st.lists(st.integers(1, 120), max_size=6))
def test_a_budget_is_used_up_and_not_exceeded(budget: int, pending: list[int]) -> None:
    parts = share_budget(budget, pending)
    assert sum(parts) == min(budget, sum(pending))
    assert all(0 <= part <= n for part, n in zip(parts, pending, strict=True))
    if pending:
        assert parts[0] >= min(pending[0], budget // 2)
