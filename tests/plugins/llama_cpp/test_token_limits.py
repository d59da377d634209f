"""Stop tokens, allowed tokens, bad words and biases by text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import InvalidRequestError, Sampled
from localllm_llama_cpp.word_bans import WordBans, spellings
from tests.plugins.llama_cpp.sampler_kit import END, N_VOCAB, TEXTS, Drawing, request


def favouring(*tokens: int) -> np.ndarray:
    """A row in which each token is a little less likely than the one before it, and all others are unlikely."""
    row = np.zeros(N_VOCAB, dtype=np.float32)
    for rank, token in enumerate(tokens):
        row[token] = 20.0 - rank
    return row


def drawn(drawing: Drawing, *rows: np.ndarray) -> bytes:
    return b"".join(TEXTS.piece(drawing.draw(row)[0].token) for row in rows)


def test_a_stop_token_ends_the_answer_as_an_end_token_does():
    drawing = request(temperature=0.0, stop_tokens=(98,))
    assert drawing.draw(favouring(97)) == (Sampled(97),)
    assert drawing.draw(favouring(98)) == (Sampled(98, is_end=True),)


def test_a_stop_token_waits_for_the_least_number_of_tokens():
    drawing = request(temperature=0.0, stop_tokens=(98,), min_tokens=2)
    assert [drawing.draw(favouring(98, 97))[0].token for _ in range(3)] == [97, 97, 98]


def test_a_stop_token_may_be_drawn_where_end_tokens_are_ignored():
    drawing = request(temperature=0.0, stop_tokens=(98,), ignore_eos=True)
    assert drawing.draw(favouring(END, 98)) == (Sampled(98, is_end=True),)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_other_than_the_allowed_tokens_are_drawn(temperature):
    row = favouring(120, 121, 122, 98, 100)
    drawing = request(temperature=temperature, top_k=5, seed=1, allowed_tokens=(100, 98, 98), ignore_eos=True)
    assert {drawing.draw(row)[0].token for _ in range(40)} <= {98, 100}


def test_end_tokens_stay_allowed():
    drawing = request(temperature=0.0, allowed_tokens=(98,))
    assert drawing.draw(favouring(120, END, 98)) == (Sampled(END, is_end=True),)


def test_the_answer_ends_when_all_allowed_tokens_are_banned():
    drawing = request(temperature=1.0, allowed_tokens=(98,), ignore_eos=True, logit_bias=((98, -100.0),))
    assert drawing.draw(favouring(98)) == (Sampled(END - 1, is_end=True),)


def test_a_bad_word_is_not_finished():
    drawing = request(temperature=0.0, bad_words=("cat",))
    rows = [favouring(*word) for word in (b"c", b"a", b"tp", b"c", b"c", b"a", b"tp")]
    assert drawn(drawing, *rows) == b"capccap"


def test_a_bad_word_is_not_finished_behind_a_space_either():
    drawing = request(temperature=0.0, bad_words=(" cat ",))
    assert drawn(drawing, *(favouring(*word) for word in (b" ", b"c", b"a", b"tr"))) == b" car"


def test_what_the_prompt_says_begins_no_bad_word():
    drawing = request(temperature=0.0, bad_words=("cat",), prompt=tuple(b"ca"))
    assert drawn(drawing, favouring(*b"tx")) == b"t"


def test_a_bad_word_of_one_token_is_banned_everywhere():
    drawing = request(temperature=0.0, bad_words=("a", "xyz"))
    assert drawn(drawing, favouring(*b"ab"), favouring(*b"ac")) == b"bc"


def test_choices_remember_their_own_beginnings():
    drawing = request(temperature=0.0, bad_words=("ab",), n=2)
    assert drawing.draw(favouring(*b"a"), 0)[0].token == 97
    assert drawing.draw(favouring(*b"x"), 1)[0].token == 120
    assert drawing.draw(favouring(*b"bc"), 0)[0].token == 99
    assert drawing.draw(favouring(*b"bc"), 1)[0].token == 98


@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.permutations(list(b"abc")), max_size=30),
)
def test_no_bad_word_is_ever_written(words, wishes):
    drawing = request(temperature=0.0, bad_words=tuple(words))
    text = drawn(drawing, *(favouring(*wish) for wish in wishes)).decode()
    assert not any(word in text for word in words)


class Joining:
    """Encodes as some tokenizers do: a space before every text, and words as single tokens."""

    def __call__(self, text: str) -> list[int]:
        return [len(part) + (100 if part.startswith("▁") else 0) for part in self._parts("▁" + text.replace(" ", "▁"))]

    def _parts(self, text: str) -> list[str]:
        parts: list[str] = []
        for char in text:
            if char in "▁\n" or not parts or parts[-1] == "\n":
                parts.append(char)
            else:
                parts[-1] += char
        return parts


def test_spellings_are_found_for_tokenizers_that_add_a_space():
    assert sorted(spellings(Joining(), "word", "bad_words")) == [(4,), (101, 105), (105,)]


def test_a_ban_without_words_bans_nothing():
    bans = WordBans([])
    bans.accept(3)
    assert bans.ids.tolist() == []


def test_a_bias_by_text_counts_for_each_of_its_tokens():
    row = favouring(*b"abcx")
    assert drawn(request(temperature=0.0, text_bias=(("aba", -100.0),)), row) == b"c"
    assert drawn(request(temperature=0.0, text_bias=(("x", 3.5),)), row) == b"x"
    assert drawn(request(temperature=0.0, text_bias=(("x", 2.0),), logit_bias=((120, 1.5),)), row) == b"x"
    assert drawn(request(temperature=0.0, text_bias=(("x", 50.0),), logit_bias=((120, -100.0),)), row) == b"a"


@pytest.mark.parametrize(
    ("sampling", "param", "message"),
    [
        ({"stop_tokens": (N_VOCAB,)}, "stop_token_ids", "names token 320, but this model's tokens are 0 to 319"),
        ({"stop_tokens": (-1,)}, "stop_token_ids", "names token -1"),
        ({"allowed_tokens": (1, N_VOCAB)}, "allowed_token_ids", "names token 320"),
        ({"allowed_tokens": ()}, "allowed_token_ids", "is empty"),
        ({"bad_words": ("ok", " ")}, "bad_words", "holds ' ', which is no word"),
        ({"bad_words": ("\ud800",)}, "bad_words", "bad_words holds half of a surrogate pair"),
        ({"text_bias": (("\ud800", 1.0),)}, "logit_bias", "logit_bias holds half of a surrogate pair"),
    ],
)
def test_what_is_wrong_is_named(sampling: dict[str, Any], param: str, message: str):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        request(**sampling)
    assert caught.value.param == param
