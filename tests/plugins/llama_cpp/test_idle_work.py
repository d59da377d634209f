"""Work that waits until nobody wants anything."""

from __future__ import annotations

import threading

import llama_cpp.llama_cpp as lib
import pytest

from localllm import Constraint
from localllm_llama_cpp import grammar_tokenizer as module
from localllm_llama_cpp.grammar_tokenizer import GrammarVocabulary, grammar_tokenizer
from localllm_llama_cpp.grammars import Grammars
from localllm_llama_cpp.idle_work import IdleWork
from localllm_llama_cpp.tokenizer import LlamaTokenizer


class Work:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.times = 0

    def __call__(self) -> None:
        self.times += 1
        self.done.set()


def test_it_is_done_once_when_nothing_comes() -> None:
    work = Work()
    idle = IdleWork(work, quiet_seconds=0.01)
    idle.start()
    assert work.done.wait(20)
    idle.begin()
    idle.end()
    for one in threading.enumerate():
        if isinstance(one, threading.Timer):
            one.join(20)
    assert work.times == 1


def test_it_waits_for_the_last_open_request() -> None:
    work = Work()
    idle = IdleWork(work, quiet_seconds=0.01)
    idle.begin()
    idle.begin()
    idle.start()
    idle.end()
    assert not work.done.wait(0.1), "one is still open"
    idle.end()
    assert work.done.wait(20)


def test_a_request_in_time_puts_it_off() -> None:
    work = Work()
    idle = IdleWork(work, quiet_seconds=30)
    idle.start()
    idle.begin()
    assert not any(
        isinstance(thread, threading.Timer) and thread.is_alive() and not thread.finished.is_set()
        for thread in threading.enumerate()
    )
    idle.close()


def test_after_the_end_it_is_never_begun() -> None:
    work = Work()
    idle = IdleWork(work, quiet_seconds=0.01)
    idle.close()
    idle.start()
    idle.begin()
    idle.end()
    assert not work.done.wait(0.05)


def test_the_vocabulary_is_built_when_the_first_grammar_is(tiny_path, load_model, monkeypatch) -> None:
    built: list[int] = []

    def count(*arguments):
        built.append(1)
        return grammar_tokenizer(*arguments)

    monkeypatch.setattr(module, "grammar_tokenizer", count)
    model = load_model(tiny_path)
    model.ahead.close()  # nothing is built meanwhile
    assert not built, "loading builds nothing"
    assert model.constraints.special_token("<|im_end|>") == 319, "which tokens are special is known without it"
    assert model.constraints.special_token("the") is None
    model.constraints.compile(Constraint("regex", "a+"))
    model.constraints.compile(Constraint("regex", "b+"))
    assert len(built) == 1


def test_a_closed_vocabulary_is_not_touched(tiny_path) -> None:
    params = lib.llama_model_default_params()
    params.vocab_only = True
    native = lib.llama_model_load_from_file(str(tiny_path).encode(), params)
    vocab = lib.llama_model_get_vocab(native)
    texts = LlamaTokenizer(vocab)
    vocabulary = GrammarVocabulary(vocab, texts.end_tokens)
    grammars = Grammars(vocabulary, texts)
    vocabulary.close()
    lib.llama_model_free(native)
    vocabulary.build_ahead()
    with pytest.raises(RuntimeError, match="the model is closed"):
        vocabulary.build()
    with pytest.raises(RuntimeError, match="the model is closed"):
        grammars.compile(Constraint("regex", "a+"))


def test_both_forms_of_a_vocabulary_agree(tiny_path) -> None:
    params = lib.llama_model_default_params()
    params.vocab_only = True
    native = lib.llama_model_load_from_file(str(tiny_path).encode(), params)
    vocab = lib.llama_model_get_vocab(native)
    texts = LlamaTokenizer(vocab)
    vocabulary = GrammarVocabulary(vocab, texts.end_tokens)
    whole = vocabulary.build()
    assert sorted(vocabulary.eos_tokens) == sorted(whole.eos_tokens)
    assert vocabulary.vocab_size == whole.vocab_size
    for token in range(texts.n_vocab):
        assert vocabulary.is_special_token(token) == whole.is_special_token(token), token
    del whole
    vocabulary.close()
    lib.llama_model_free(native)
