"""Draws under a grammar: what is not allowed is drawn again, and nothing else remembers it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLParserLimits

from localllm import Constraint, Sampled
from localllm_llama_cpp import grammars as module
from tests.plugins.llama_cpp.sampler_kit import END, N_VOCAB, VOCABULARY, Drawing, byte_grammars, request

GRAMMARS = byte_grammars()
FLAT = np.zeros(N_VOCAB, dtype=np.float32)


def favouring(**logits: float) -> np.ndarray:
    row = FLAT.copy()
    for name, logit in logits.items():
        row[int(name[1:])] = logit
    return row


def test_a_token_that_is_not_allowed_is_drawn_again():
    drawing = request(GRAMMARS, temperature=0.0, constraint=Constraint("choice", '["ab", "ac"]'))
    row = favouring(t122=9.0, t99=2.0)  # z, c
    assert drawing.draw(row) == (Sampled(97),)
    assert drawing.draw(row) == (Sampled(99), Sampled(END - 1, is_end=True))
    assert drawing.n_refused == 2


def test_an_allowed_token_needs_no_mask():
    drawing = request(GRAMMARS, temperature=0.0, constraint=Constraint("regex", "z*"))
    assert [drawing.draw(favouring(t122=9.0)) for _ in range(5)] == [(Sampled(122),)] * 5
    assert drawing.n_refused == 0
    assert drawing.draw(favouring(t319=9.0)) == (Sampled(END, is_end=True),)


def test_a_grammar_without_any_text_ends_at_once():
    drawing = request(GRAMMARS, temperature=0.0, constraint=Constraint("choice", '[""]'))
    assert drawing.write(lambda _: favouring(t97=9.0)) == (b"", True)


def test_a_grammar_that_only_can_end_ends_though_no_end_may_be_drawn():
    for settings in ({"ignore_eos": True}, {"min_tokens": 50}):
        drawing = request(GRAMMARS, temperature=1.0, seed=1, constraint=Constraint("regex", "[ab]{3}"), **settings)
        text, ended = drawing.write(lambda _: FLAT)
        assert len(text) == 3
        assert ended


def test_without_an_end_the_grammar_goes_on_as_long_as_it_can():
    drawing = request(GRAMMARS, temperature=0.0, ignore_eos=True, constraint=Constraint("regex", "a{1,7}"))
    assert drawing.write(lambda _: favouring(t319=9.0)) == (b"aaaaaaa", True)


def test_when_bans_leave_nothing_the_answer_ends():
    drawing = request(
        GRAMMARS, temperature=1.0, constraint=Constraint("regex", "ab"), logit_bias=((98, -100.0),), seed=1
    )
    assert drawing.write(lambda _: FLAT) == (b"a", True)


def test_only_tokens_that_are_allowed_by_both_are_drawn():
    constraint = Constraint("regex", "[a-d]{8}")
    drawing = request(GRAMMARS, temperature=1.0, seed=1, constraint=constraint, allowed_tokens=(98, 100, 120))
    text, ended = drawing.write(lambda _: FLAT)
    assert set(text) == {98, 100}
    assert (len(text), ended) == (8, True)


def test_an_end_token_that_is_text_to_the_grammar_is_never_drawn():
    """To the library 318 is an end, to the grammar it is no end: it would cut the answer off."""
    assert END - 1 in VOCABULARY.end_tokens
    assert END - 1 not in GRAMMARS.ends
    drawing = request(GRAMMARS, temperature=0.0, constraint=Constraint("lark", "start: <[318]> /a/"))
    assert drawing.draw(favouring(t318=9.0)) == (Sampled(END - 1, is_end=True),)
    assert drawing.n_refused == 1, "it was not drawn but ended for want of a token"


def test_a_draw_that_is_refused_leaves_no_trace():
    constraint = Constraint("regex", "(ab?){1,20}")
    settings: dict[str, Any] = {"frequency_penalty": 0.5, "bad_words": ("zz",), "temperature": 0.0}
    drawing = request(GRAMMARS, constraint=constraint, **settings)
    row = favouring(t122=9.0, t97=2.0, t98=1.9)
    drawn = [drawing.draw(row)[0].token for _ in range(6)]
    assert drawing.n_refused == 6
    assert drawn == [97, 98, 97, 98, 97, 98]
    free = request(temperature=0.0, frequency_penalty=0.5, bad_words=("zz",), allowed_tokens=(97, 98))
    banned = favouring(t122=9.0, t97=2.0, t98=1.9)
    assert free.draw(banned)[0].token == 97
    tokens = [token for token, _ in _counts(drawing)]
    assert tokens == [97, 98], "z was never taken"


def _counts(drawing: Drawing) -> list[tuple[int, float]]:
    penalties = drawing.sampler.choices[0]._memory.penalties
    assert penalties is not None
    return sorted(zip(penalties.ids.tolist(), penalties._window.counts.tolist(), strict=True))


def test_mirostat_learns_only_from_what_it_drew():
    """Its draws change its state at once, so under a grammar all are made from a mask."""
    constraint = Constraint("regex", "[ab]*")
    masked = request(GRAMMARS, temperature=1.0, mirostat=2, seed=5, constraint=constraint)
    banned = tuple((token, -100.0) for token in range(N_VOCAB) if token not in (97, 98, END))
    plain = request(temperature=1.0, mirostat=2, seed=5, logit_bias=banned)
    row = favouring(t122=9.0, t97=1.0, t319=-9.0)
    assert [masked.draw(row) for _ in range(40)] == [plain.draw(row) for _ in range(40)]


def test_drawing_again_gives_each_allowed_token_the_share_it_has_among_them():
    rng = np.random.default_rng(3)
    row = rng.standard_normal(N_VOCAB).astype(np.float32)
    settings: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    expected = np.exp(row[97:101]) / np.exp(row[97:101]).sum()
    counts = np.zeros(4)
    n_draws = 4000
    drawing = request(GRAMMARS, seed=11, constraint=Constraint("regex", f"[a-d]{{{n_draws + 1}}}"), **settings)
    for _ in range(n_draws):
        counts[drawing.draw(row)[0].token - 97] += 1
    # chi-square with 3 degrees of freedom: 16.3 is passed once in 1,000 seeds, and this one is fixed
    assert ((counts - n_draws * expected) ** 2 / (n_draws * expected)).sum() < 16.3
    assert drawing.n_refused > n_draws / 2


def test_top_k_counts_allowed_tokens_only():
    row = favouring(**{f"t{token}": 9.0 for token in range(200, 250)}, t97=3.0, t98=2.0)
    drawing = request(
        GRAMMARS, temperature=1.0, top_k=1, seed=1, constraint=Constraint("regex", "[ab]*"), ignore_eos=True
    )
    assert {drawing.draw(row)[0].token for _ in range(20)} == {97}


def test_choices_go_their_own_ways():
    constraint = Constraint("regex", "a[bc]{4}|d[ef]{4}")
    drawing = request(GRAMMARS, temperature=1.0, n=4, seed=2, constraint=constraint)
    texts = [drawing.write(lambda _: FLAT, choice)[0] for choice in range(4)]
    again = request(GRAMMARS, temperature=1.0, n=4, seed=2, constraint=constraint)
    assert [again.write(lambda _: FLAT, choice)[0] for choice in range(4)] == texts
    assert len(set(texts)) > 1
    assert all(len(text) == 5 for text in texts)


def test_log_probabilities_are_those_of_the_row_without_the_grammar():
    row = favouring(t122=9.0, t97=1.0)
    drawing = request(GRAMMARS, temperature=0.0, logprobs=2, constraint=Constraint("regex", "[ab]"))
    (sampled, end) = drawing.draw(row)
    exact = row - np.log(np.exp(row.astype(np.float64)).sum())
    assert sampled.logprob == pytest.approx(exact[97], abs=1e-5)
    assert [token for token, _ in sampled.top] == [122, 97]
    assert end.is_end


def test_a_stop_token_ends_an_answer_under_a_grammar_too():
    drawing = request(GRAMMARS, temperature=0.0, stop_tokens=(98,), constraint=Constraint("regex", "[ab]*"))
    assert drawing.write(lambda drawn: favouring(t97=9.0) if len(drawn) < 3 else favouring(t98=9.0)) == (b"aaa", True)


def test_a_grammar_that_exceeds_its_limits_ends_its_answer_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(module, "LIMITS", LLParserLimits(max_items_in_row=30, verbose_errors=False))
    grammars = byte_grammars()
    ambiguous = Constraint("lark", 'start: s\ns: s s s s | /a/ | ""\n')  # the longer the text, the more ways to read it
    drawing = request(grammars, temperature=0.0, constraint=ambiguous)
    text, ended = drawing.write(lambda _: favouring(t97=9.0, t319=-9.0))
    assert ended
    assert set(text) == {97}
    assert "a grammar failed, so that its answer ends early" in caplog.text


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_masks_of_several_grammars_are_found_together(n_rows):
    masks = GRAMMARS.masks
    states = [GRAMMARS.begin(Constraint("regex", f"[a-{chr(98 + row)}]")) for row in range(n_rows)]
    masks.fill(states)
    for row in range(n_rows):
        assert masks.allowed(row).tolist() == list(range(97, 99 + row))


@given(
    st.text(st.characters(exclude_characters="\x05", exclude_categories=["Cs"]), max_size=30), st.integers(0, 2**32 - 1)
)
def test_any_choice_is_written_whatever_the_model_thinks(text, seed):
    rng = np.random.default_rng(seed)
    other = "x" + text
    constraint = Constraint("choice", json.dumps([text, other]))
    drawing = request(GRAMMARS, temperature=1.0, seed=seed, constraint=constraint)
    written, ended = drawing.write(lambda _: (rng.standard_normal(N_VOCAB) * 5).astype(np.float32))
    assert ended
    assert written.decode() in (text, other)
