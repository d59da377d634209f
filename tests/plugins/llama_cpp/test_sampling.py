from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import InvalidRequestError, Sampled, SamplingParams
from localllm_llama_cpp.chain import Candidates
from localllm_llama_cpp.logprobs import RowLogprobs
from localllm_llama_cpp.penalties import TokenWindow
from localllm_llama_cpp.sampler_factory import SeedSource
from localllm_llama_cpp.sampling_defaults import SamplingDefaults
from tests.plugins.llama_cpp.sampler_kit import END, N_VOCAB, factory


def row_of(**logits: float) -> np.ndarray:
    row = np.zeros(N_VOCAB, dtype=np.float32)
    for token, logit in logits.items():
        row[int(token[1:])] = logit
    return row


class Request:
    """A request's sampler, drawing again and again from rows that the test gives."""

    def __init__(
        self,
        prompt: tuple[int, ...] = (),
        seeds: SeedSource | None = None,
        defaults: SamplingDefaults = SamplingDefaults(),  # noqa: B008  # frozen
        **sampling: Any,
    ) -> None:
        self._candidates = Candidates(N_VOCAB)
        self._sampler = factory(defaults=defaults, seeds=seeds)(SamplingParams(**sampling), prompt)

    def draw(self, row: np.ndarray, choice: int = 0) -> Sampled:
        before = row.copy()
        drawn = self._sampler.sample(choice, row, self._candidates, [])
        assert drawn is not None, "there is no grammar"
        (sampled,) = drawn
        assert np.array_equal(row, before, equal_nan=True), "the row belongs to other choices too"
        return sampled

    def draws(self, row: np.ndarray, count: int = 20, choice: int = 0) -> list[int]:
        return [self.draw(row, choice).token for _ in range(count)]


def test_temperature_zero_takes_the_likeliest():
    assert Request(temperature=0).draws(row_of(t7=3.0, t8=2.9)) == [7] * 20


def test_a_vanishing_temperature_is_greedy_instead_of_overflowing():
    assert Request(temperature=1e-38).draws(row_of(t7=30.0, t8=29.9)) == [7] * 20


@pytest.mark.parametrize("token", [END, END - 1])
def test_end_tokens_are_marked(token):
    row = row_of(t7=3.0)
    row[token] = 9.0
    assert Request(temperature=0).draw(row) == Sampled(token, is_end=True)


def test_ignore_eos_bans_every_end_token():
    row = row_of(t319=9.0, t318=8.0, t7=3.0)
    assert Request(temperature=0, ignore_eos=True).draw(row) == Sampled(7)


def test_min_tokens_bans_the_end_until_so_many_were_drawn():
    request = Request(temperature=0, min_tokens=3)
    assert request.draws(row_of(t319=9.0, t7=3.0), 5) == [7, 7, 7, 319, 319]


def test_tokens_that_the_file_suppresses_are_never_drawn():
    assert Request(temperature=0).draw(row_of(t5=9.0, t7=3.0)).token == 7


def test_a_bias_of_minus_100_bans_and_of_plus_100_forces():
    assert Request(temperature=0, logit_bias=((7, -100.0),)).draw(row_of(t7=500.0, t8=1.0)).token == 8
    assert Request(temperature=5.0, logit_bias=((9, 100.0),)).draws(row_of(t7=3.0)) == [9] * 20


@pytest.mark.parametrize("token", [-1, N_VOCAB])
def test_a_bias_for_a_token_that_does_not_exist_is_the_callers_fault(token):
    with pytest.raises(InvalidRequestError, match=f"token {token}, .* 0 to 319") as caught:
        Request(logit_bias=((token, 1.0),))
    assert caught.value.param == "logit_bias"


def test_a_banned_end_token_stays_banned_whatever_its_bias():
    row = row_of(t319=9.0, t7=3.0)
    assert Request(temperature=0, ignore_eos=True, logit_bias=((319, 50.0),)).draw(row).token == 7


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("top_k", [0, 40])
def test_a_row_of_not_a_number_ends_the_answer(temperature, top_k):
    row = np.full(N_VOCAB, np.nan, dtype=np.float32)
    assert Request(temperature=temperature, top_k=top_k).draw(row).is_end


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_when_all_tokens_are_banned_the_answer_ends(temperature):
    banned = tuple((token, -100.0) for token in range(N_VOCAB))
    assert Request(temperature=temperature, logit_bias=banned).draw(row_of(t7=3.0)).is_end


def test_presence_penalty_counts_the_prompt():
    row = row_of(t7=3.0, t8=2.5)
    assert Request(temperature=0, presence_penalty=1.0).draw(row).token == 7
    assert Request(prompt=(7,), temperature=0, presence_penalty=1.0).draw(row).token == 8


def test_frequency_penalty_grows_with_every_repetition():
    row = row_of(t7=3.0, t8=2.0)
    assert Request(temperature=0, frequency_penalty=0.6).draws(row, 5) == [7, 7, 8, 7, 8]


def test_the_penalty_window_forgets():
    row = row_of(t7=3.0, t8=2.5)
    request = Request(prompt=(7, 1, 2, 3), temperature=0, presence_penalty=1.0, repeat_last_n=3)
    assert request.draw(row).token == 7
    request = Request(prompt=(7, *range(20, 300)), temperature=0, presence_penalty=1.0, repeat_last_n=-1)
    assert request.draw(row).token == 8  # the whole context


FLAT = np.zeros(N_VOCAB, dtype=np.float32)


def test_the_same_seed_draws_the_same_and_another_seed_something_else():
    assert Request(seed=7).draws(FLAT) == Request(seed=7).draws(FLAT) != Request(seed=8).draws(FLAT)


def test_without_a_seed_draws_are_random():
    assert Request().draws(FLAT) != Request().draws(FLAT)


@pytest.mark.parametrize("seed", [100, -1, 2**32 - 2, 2**64 + 3])
def test_choice_k_draws_as_seed_plus_k(seed):
    request = Request(seed=seed, n=3)
    for choice in range(3):
        assert request.draws(FLAT, choice=choice) == Request(seed=seed + choice).draws(FLAT)
    assert request.draws(FLAT, choice=0) != request.draws(FLAT, choice=1)


def test_a_configured_seed_makes_a_series_of_different_requests():
    def series() -> list[list[int]]:
        seeds = SeedSource(42)
        return [Request(seeds=seeds).draws(FLAT) for _ in range(3)]

    first = series()
    assert first == series()
    assert first[0] != first[1] != first[2]


def test_what_the_request_leaves_out_is_the_models_default():
    greedy = SamplingDefaults(temperature=0.0)
    row = row_of(t7=0.1)
    assert Request(defaults=greedy).draws(row) == [7] * 20
    assert Request(defaults=greedy, temperature=5.0).draws(row) != [7] * 20
    assert Request(defaults=SamplingDefaults(top_k=1)).draws(row) == [7] * 20
    assert set(Request(defaults=SamplingDefaults(top_k=1), top_k=-1).draws(FLAT)) != {7}


def test_choices_share_a_row_and_its_logprobs():
    row = row_of(t7=3.0, t8=2.0)
    candidates = Candidates(N_VOCAB)
    shared: list[RowLogprobs] = []
    request = Request(temperature=0, n=2, logprobs=2, logit_bias=((7, -100.0),))
    first = request._sampler.sample(0, row, candidates, shared)
    second = request._sampler.sample(1, row, candidates, shared)
    assert first is not None
    assert first == second
    assert len(shared) == 1
    (first,) = first
    assert first.token == 8
    assert [token for token, _ in first.top] == [7, 8], "log-probabilities are those of the raw row"
    assert first.logprob == first.top[1][1]


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([320, 32_000]),
    st.sampled_from([0.1, 3.0, 300.0]),
    st.integers(0, 400),
)
def test_logprobs_are_the_log_softmax_of_the_row(seed, size, spread, count):
    rng = np.random.default_rng(seed)
    row = (rng.standard_normal(size) * spread).astype(np.float32)
    exact = row.astype(np.float64) - row.max()
    exact -= np.log(np.exp(exact).sum())
    logprobs = RowLogprobs(row)
    token = int(rng.integers(size))
    assert logprobs.of(token) == pytest.approx(exact[token], abs=1e-4, rel=1e-6)
    top = logprobs.top(count)
    order = np.lexsort((np.arange(size), -row))[:count]
    assert [token for token, _ in top] == order.tolist()
    assert [value for _, value in top] == pytest.approx(exact[order].tolist(), abs=1e-4, rel=1e-6)


@given(st.integers(0, 40), st.lists(st.integers(0, 9), max_size=100), st.lists(st.integers(0, 9), max_size=100))
def test_a_window_counts_its_last_tokens(size, before, added):
    window = TokenWindow(size, before)
    for token in added:
        window.add(token)
    recent = [*before, *added][-size:] if size else []
    counted = dict(zip(window.ids.tolist(), window.counts.tolist(), strict=True))
    assert counted == {token: recent.count(token) for token in recent}


def test_a_window_holds_more_different_tokens_than_it_starts_with_room_for():
    window = TokenWindow(500, range(300))
    assert sorted(window.ids.tolist()) == list(range(300))
    assert set(window.counts.tolist()) == {1.0}
