"""Tokens that the engine writes itself count for a sampler as if it had drawn them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import Constraint, Sampled, SamplingParams
from localllm.testing.tiny_model import write_tiny_llama
from localllm_llama_cpp.dry import DrySource
from tests.plugins.llama_cpp.sampler_kit import END, N_VOCAB, Drawing, byte_grammars, factory

GRAMMARS = byte_grammars()


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrySource]:
    path: Path = write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    source = DrySource(lib.llama_model_get_vocab(model))
    yield source
    source.close()
    lib.llama_model_free(model)


def row_of(**logits: float) -> np.ndarray:
    row = np.zeros(N_VOCAB, dtype=np.float32)
    for token, logit in logits.items():
        row[int(token[1:])] = logit
    return row


def drawing(dry: DrySource | None = None, **sampling: Any) -> Drawing:
    made = factory(grammars=GRAMMARS, dry=dry)(SamplingParams(temperature=0.0, **sampling), ())
    return Drawing(made, GRAMMARS)


def force(drawing: Drawing, text: Sequence[int]) -> None:
    drawing.sampler.choices[0].force(list(text))


SETTINGS: dict[str, dict[str, Any]] = {
    "penalties": {"repeat_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.2},
    "dry": {"dry_multiplier": 2.0},
    "words": {"bad_words": ("aba", "cb", "d")},
    "early": {"min_tokens": 7},
    "grammar": {"constraint": Constraint("regex", "[a-d]{3,30}")},
}


@pytest.mark.parametrize("names", [[name] for name in SETTINGS] + [[*SETTINGS]], ids="+".join)
def test_what_was_forced_counts_as_if_it_had_been_drawn(dry: DrySource, names: list[str]) -> None:
    settings: dict[str, Any] = {}
    for name in names:
        settings |= SETTINGS[name]

    @given(st.text("abc", min_size=1, max_size=12), st.integers(0, 2**32 - 1))
    def check(text: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        ours, theirs = drawing(dry, **settings), drawing(dry, **settings)
        drawn = []
        for letter in text.encode():  # or another one, where the word is banned
            drawn.append(
                theirs.draw(row_of(**{"t97": 500.0, "t98": 400.0, "t99": 300.0, f"t{letter}": 1000.0}))[0].token
            )
        force(ours, drawn)
        for _ in range(6):
            row = rng.standard_normal(N_VOCAB).astype(np.float32)
            row[97:101] += 4.0
            row[END] += 3.0
            assert ours.draw(row) == theirs.draw(row)
        ours.sampler.close()
        theirs.sampler.close()

    check()


def test_a_penalty_counts_what_was_forced() -> None:
    one = drawing(presence_penalty=1.0)
    force(one, b"a")
    assert one.draw(row_of(t97=3.0, t98=2.5))[0].token == 98


def test_a_banned_word_that_was_begun_is_not_ended() -> None:
    one = drawing(bad_words=("ab",))
    force(one, b"a")
    assert one.draw(row_of(t98=3.0, t99=2.5))[0].token == 99


def test_a_loop_that_was_forced_does_not_go_on(dry: DrySource) -> None:
    one = drawing(dry, dry_multiplier=2.0)
    force(one, b"aaa")
    assert one.draw(row_of(t97=5.0, t98=4.0))[0].token == 98


def test_a_grammar_goes_on_behind_what_it_allows() -> None:
    one = drawing(constraint=Constraint("regex", "think*;[0-9]{2}"))
    force(one, b"think;")
    assert one.draw(row_of(t97=9.0, t51=2.0)) == (Sampled(51),)
    assert [sampled.is_end for sampled in one.draw(row_of(t97=9.0, t51=2.0))] == [False, True]


@pytest.mark.parametrize("text", [b"thought", b"think;12 "])
def test_a_grammar_that_does_not_allow_it_is_let_go(text: bytes) -> None:
    one = drawing(constraint=Constraint("regex", "think*;[0-9]{2}"))
    force(one, text)
    assert one.sampler.choices[0].grammar is None
    assert one.draw(row_of(t97=9.0, t51=2.0)) == (Sampled(97),)


def test_each_choice_has_a_grammar_of_its_own_to_lose() -> None:
    made = drawing(n=2, constraint=Constraint("regex", "ab"))
    force(made, b"x")
    assert made.draw(row_of(t122=9.0), 0) == (Sampled(122),)
    assert made.draw(row_of(t122=9.0), 1) == (Sampled(97),)
