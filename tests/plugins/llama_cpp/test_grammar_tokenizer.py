"""What llguidance is told of a real vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import pytest

from localllm import Constraint
from localllm_llama_cpp import grammar_tokenizer as module
from localllm_llama_cpp.grammar_tokenizer import grammar_tokenizer
from localllm_llama_cpp.grammars import Grammars
from localllm_llama_cpp.tokenizer import LlamaTokenizer

END_OF_TEXT, IM_START, IM_END = 317, 318, 319


@pytest.fixture
def vocab(tiny_path: Path) -> Iterator[Any]:
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(tiny_path).encode(), params)
    yield lib.llama_model_get_vocab(model)
    lib.llama_model_free(model)


def test_texts_come_back_as_they_were(vocab: Any) -> None:
    texts = LlamaTokenizer(vocab)
    tokenizer = grammar_tokenizer(vocab, texts.end_tokens)
    for text in ("in the hills", "größe ☃ 🙂", "a\n\tb"):
        tokens = tokenizer.tokenize_str(text)
        assert tokens == texts.encode_plain(text)
        assert tokenizer.decode_bytes(tokens) == text.encode()
    assert tokenizer.is_canonical


def test_control_tokens_are_no_text_and_all_ends_are_known(vocab: Any) -> None:
    tokenizer = grammar_tokenizer(vocab, LlamaTokenizer(vocab).end_tokens)
    assert sorted(tokenizer.eos_tokens) == [END_OF_TEXT, IM_END]
    assert [tokenizer.is_special_token(token) for token in (97, END_OF_TEXT, IM_START, IM_END)] == [
        False,
        True,
        True,
        True,
    ]


def test_an_end_that_is_ordinary_text_ends_no_grammar(vocab: Any) -> None:
    tokenizer = grammar_tokenizer(vocab, {97, END_OF_TEXT, IM_END})
    assert sorted(tokenizer.eos_tokens) == [END_OF_TEXT, IM_END]


def test_a_vocabulary_without_an_end_gets_a_stand_in_that_is_never_drawn(vocab: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_grammar_ends", lambda *_: [])
    texts = LlamaTokenizer(vocab)
    tokenizer = grammar_tokenizer(vocab, texts.end_tokens)
    assert tokenizer.vocab_size == texts.n_vocab + 1
    grammars = Grammars(tokenizer, texts)
    state = grammars.begin(Constraint("regex", "x*"))
    grammars.masks.fill([state])
    assert {texts.piece(token) for token in grammars.masks.allowed(0).tolist()} == {b"x"}


def test_long_pieces_are_taken_whole(vocab: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", 2)
    texts = LlamaTokenizer(vocab)
    tokenizer = grammar_tokenizer(vocab, texts.end_tokens)
    assert tokenizer.decode_bytes(texts.encode_plain(" and the ing")) == b" and the ing"
