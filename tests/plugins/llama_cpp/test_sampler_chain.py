"""Every sampler, pruned or not, draws what llama.cpp's whole chain draws from the whole row, with the same seed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import InvalidRequestError, SamplingParams
from localllm.testing.tiny_model import write_tiny_llama
from localllm_llama_cpp.dry import DrySource
from localllm_llama_cpp.sampler_factory import VocabularyFacts
from tests.plugins.llama_cpp.sampler_kit import ROOM, Drawing, distinct_logits, factory, request, rows

BREAKERS = ("\n", ":", '"', "*")

draw_seeds = st.integers(0, 2**32 - 4)
samplings = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.05, 5.0),
        "top_k": st.sampled_from([0, 1, 2, 40, 200, 100_000]),
        "top_p": st.sampled_from([1.0, 0.95, 0.5]),
        "min_p": st.sampled_from([0.0, 0.05, 0.9]),
        "typical_p": st.sampled_from([1.0, 0.9, 0.3]),
        "top_n_sigma": st.sampled_from([-1.0, 0.5, 2.0]),
        "xtc_probability": st.sampled_from([0.0, 0.5, 1.0]),
        "xtc_threshold": st.sampled_from([0.01, 0.1, 0.6]),
    }
)


class Reference:
    """llama.cpp's chain in the order of ``common_sampler_init``, on all candidates, without any short cut."""

    def __init__(self, sampling: SamplingParams, seed: int, n_vocab: int, dry: Any = None) -> None:
        self.chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for sampler in [] if dry is None else [dry]:
            lib.llama_sampler_chain_add(self.chain, sampler)
        for sampler in self._samplers(sampling, seed, n_vocab):
            lib.llama_sampler_chain_add(self.chain, sampler)

    def _samplers(self, sampling: SamplingParams, seed: int, n_vocab: int) -> Iterator[Any]:
        if sampling.mirostat:
            yield lib.llama_sampler_init_temp(sampling.temperature)
            tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
            if sampling.mirostat == 1:
                yield lib.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, 100)
            else:
                yield lib.llama_sampler_init_mirostat_v2(seed, tau, eta)
            return
        yield lib.llama_sampler_init_top_n_sigma(sampling.top_n_sigma)
        yield lib.llama_sampler_init_top_k(sampling.top_k)
        yield lib.llama_sampler_init_typical(sampling.typical_p, 0)
        yield lib.llama_sampler_init_top_p(sampling.top_p, 0)
        yield lib.llama_sampler_init_min_p(sampling.min_p, 0)
        yield lib.llama_sampler_init_xtc(sampling.xtc_probability, sampling.xtc_threshold, 0, seed)
        yield lib.llama_sampler_init_temp_ext(sampling.temperature, 0.0, 1.0)
        yield lib.llama_sampler_init_dist(seed)

    def draw(self, row: np.ndarray) -> int:
        table = (lib.llama_token_data * len(row))()
        for token, logit in enumerate(row.tolist()):
            table[token].id, table[token].logit = token, logit
        array = lib.llama_token_data_array(data=table, size=len(row), selected=-1, sorted=False)
        lib.llama_sampler_apply(self.chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        lib.llama_sampler_accept(self.chain, token)
        return token

    def close(self) -> None:
        lib.llama_sampler_free(self.chain)


def drawn_by_both(row: np.ndarray, sampling: SamplingParams, seed: int) -> tuple[list[int], list[int]]:
    reference = Reference(sampling, seed, len(row))
    make = factory(VocabularyFacts(len(row), frozenset()))
    ours = make(sampling, ()).choices[0]
    theirs = [reference.draw(row) for _ in range(4)]
    drawn = [ours.draw(row, ROOM[len(row)]) for _ in range(4)]
    reference.close()
    ours.close()
    return drawn, theirs


@given(rows, samplings, draw_seeds)
def test_all_samplers_together_draw_what_llama_cpp_draws(row, settings, seed):
    if settings["top_n_sigma"] > 0 and settings["typical_p"] < 1:
        settings["typical_p"] = 1.0  # the library then takes the logarithm of 0: nothing to compare with
    drawn, theirs = drawn_by_both(row, SamplingParams(**settings, seed=seed), seed)
    assert drawn == theirs


@given(
    rows,
    st.sampled_from([1, 2]),
    st.floats(0.2, 2.0),
    st.sampled_from([0.5, 3.0, 5.0]),
    st.sampled_from([0.05, 0.5]),
    draw_seeds,
)
def test_mirostat_draws_what_llama_cpp_draws_and_learns_the_same(row, version, temperature, tau, eta, seed):
    sampling = SamplingParams(
        temperature=temperature, mirostat=version, mirostat_tau=tau, mirostat_eta=eta, seed=seed, top_k=3, top_p=0.1
    )
    drawn, theirs = drawn_by_both(row, sampling, seed)
    assert drawn == theirs


@pytest.mark.parametrize("settings", [{"typical_p": 0.5, "top_k": 0}, {"mirostat": 1}, {"mirostat": 2}])
def test_banned_tokens_do_not_spoil_sums_of_logarithms(settings):
    row = np.zeros(320, dtype=np.float32)
    row[7], row[8] = 9.0, 8.9
    bans = tuple((token, -100.0) for token in range(9, 320))
    drawing = request(**settings, logit_bias=bans, temperature=1.0, seed=1)
    assert {drawing.draw(row)[0].token for _ in range(100)} <= {0, 1, 2, 3, 4, 6, 7, 8}


def test_greedy_ignores_what_would_take_away_the_likeliest():
    row = np.zeros(320, dtype=np.float32)
    row[7] = 3.0
    drawing = request(temperature=0.0, xtc_probability=1.0, xtc_threshold=0.0, typical_p=0.1, mirostat=2)
    assert {drawing.draw(row)[0].token for _ in range(20)} == {7}


def test_xtc_takes_away_the_likeliest_of_several_likely_ones():
    row = np.full(320, -50.0, dtype=np.float32)
    row[[7, 8, 9]] = 3.0, 2.0, 1.0
    plain = request(temperature=1.0, xtc_probability=0.0, seed=3)
    taken = request(temperature=1.0, xtc_probability=1.0, xtc_threshold=0.05, seed=3)
    assert {plain.draw(row)[0].token for _ in range(60)} >= {7, 8}
    assert {taken.draw(row)[0].token for _ in range(60)} == {9}


@pytest.fixture(scope="module")
def tiny_vocab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real vocabulary, loaded without weights."""
    path = write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    yield lib.llama_model_get_vocab(model)
    lib.llama_model_free(model)


def native_dry(vocab: Any, sampling: SamplingParams, window: int, breakers: Sequence[str]) -> Any:
    texts = (ctypes.c_char_p * len(breakers))(*(text.encode() for text in breakers))
    return lib.llama_sampler_init_dry(
        vocab,
        sampling.dry_multiplier,
        sampling.dry_base,
        sampling.dry_allowed_length,
        window,
        ctypes.cast(texts, ctypes.POINTER(ctypes.c_char_p)),
        len(breakers),
    )


def few_letters(rng: np.random.Generator, n_vocab: int) -> np.ndarray:
    """Return logits of which no two are equal, and by which what was written comes again and again."""
    row = distinct_logits(rng.integers(2**32), n_vocab, 1.0)
    row[97:102] += 6.0
    return row if len(np.unique(row)) == n_vocab else few_letters(rng, n_vocab)


@given(
    draw_seeds,
    st.sampled_from([0.1, 0.8, 4.0]),
    st.integers(0, 4),
    st.sampled_from([-1, 8, 40]),
    st.lists(st.integers(97, 101) | st.just(10), max_size=60),
    st.sampled_from([0, 5, 40]),
    st.sampled_from([1, 2]),
)
def test_dry_penalises_as_llama_cpp_does(tiny_vocab, seed, multiplier, allowed, last_n, prompt, top_k, n):
    n_vocab = int(lib.llama_vocab_n_tokens(tiny_vocab))
    rng = np.random.default_rng(seed)
    sampling = SamplingParams(
        temperature=0.7,
        top_k=top_k,
        top_p=0.9,
        min_p=0.0,
        n=n,
        seed=seed,
        dry_multiplier=multiplier,
        dry_allowed_length=allowed,
        dry_penalty_last_n=last_n,
    )
    dry = DrySource(tiny_vocab)
    sampler = factory(VocabularyFacts(n_vocab, frozenset()), dry=dry)(sampling, prompt)
    window = 512 if last_n < 0 else last_n
    for choice in range(n):
        native = native_dry(tiny_vocab, sampling, window, BREAKERS)
        for token in prompt:
            lib.llama_sampler_accept(native, token)
        reference = Reference(sampling, seed + choice, n_vocab, native)
        drawing = Drawing(sampler, n_vocab=n_vocab)
        for _ in range(12):
            row = few_letters(rng, n_vocab)
            assert drawing.draw(row, choice)[0].token == reference.draw(row)
        reference.close()
    sampler.close()
    dry.close()


def test_dry_keeps_a_loop_from_going_on(tiny_vocab):
    n_vocab = int(lib.llama_vocab_n_tokens(tiny_vocab))
    row = np.zeros(n_vocab, dtype=np.float32)
    row[97], row[98] = 5.0, 4.0
    make = factory(VocabularyFacts(n_vocab, frozenset()), dry=DrySource(tiny_vocab))
    plain = Drawing(make(SamplingParams(temperature=0.0), (97, 97, 97)), n_vocab=n_vocab)
    kept = Drawing(make(SamplingParams(temperature=0.0, dry_multiplier=2.0), (97, 97, 97)), n_vocab=n_vocab)
    assert plain.draw(row)[0].token == 97
    assert kept.draw(row)[0].token == 98


def test_breakers_are_prepared_once_and_forgotten_in_turn(tiny_vocab):
    dry = DrySource(tiny_vocab)
    make = factory(dry=dry)
    for index in range(20):
        make(SamplingParams(dry_multiplier=1.0, dry_sequence_breakers=(f"b{index}",)), ()).close()
        make(SamplingParams(dry_multiplier=1.0, dry_sequence_breakers=(f"b{index}",)), ()).close()
    assert dry.n_kept == 8
    dry.close()


@pytest.mark.parametrize("breakers", [("",), ("a\0b",), ("\ud800",), ("x",) * 65])
def test_breakers_that_break_nothing_are_refused(tiny_vocab, breakers):
    with pytest.raises(InvalidRequestError) as caught:
        factory(dry=DrySource(tiny_vocab))(SamplingParams(dry_multiplier=1.0, dry_sequence_breakers=breakers), ())
    assert caught.value.param == "dry_sequence_breakers"


def test_a_window_beyond_all_bounds_is_the_whole_context(tiny_vocab):
    sampling = SamplingParams(dry_multiplier=1.0, dry_penalty_last_n=2**40, dry_allowed_length=2**40)
    factory(dry=DrySource(tiny_vocab))(sampling, (97,) * 600).close()


def test_an_unknown_mirostat_is_refused():
    with pytest.raises(InvalidRequestError, match="mirostat is 3"):
        request(mirostat=3)
