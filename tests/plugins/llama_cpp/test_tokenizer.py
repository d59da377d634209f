from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import ChatPrompt, InvalidRequestError, LoadRequest, Mode
from localllm.testing.tiny_model import write_tiny_llama
from localllm_llama_cpp.loader import LlamaModel
from localllm_llama_cpp.tokenizer import LlamaTokenizer

END, START = 319, 318  # <|im_end|>, <|im_start|>


@pytest.fixture(scope="module")
def tokenizer(tiny_path):
    from localllm_llama_cpp.loader import load

    model: LlamaModel = load(LoadRequest("tiny", str(tiny_path), Mode.GENERATE))
    yield model.tokenizer
    model.close()


def text_of(tokenizer: LlamaTokenizer, tokens: list[int]) -> bytes:
    return b"".join(tokenizer.piece(token) for token in tokens)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_every_text_comes_back_byte_for_byte(tokenizer, text):
    tokens = tokenizer.encode(text, add_special=False, parse_special=False)
    assert text_of(tokenizer, tokens) == text.encode()


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "\x7f\x80ÿ", "日本語 🎉", "x" * 100_000, "the " * 5000])
def test_hard_texts_come_back(tokenizer, text):
    assert text_of(tokenizer, tokenizer.encode(text, add_special=False, parse_special=False)) == text.encode()


def test_control_tokens_are_read_only_when_asked_for(tokenizer):
    assert tokenizer.encode("<|im_start|>x<|im_end|>", add_special=False, parse_special=True) == [START, ord("x"), END]
    plain = tokenizer.encode("<|im_end|>", add_special=False, parse_special=False)
    assert END not in plain
    assert text_of(tokenizer, plain) == b"<|im_end|>"


def test_control_tokens_have_no_text_but_a_spelling(tokenizer):
    assert tokenizer.piece(END) == b""
    assert tokenizer.written_out(END) == "<|im_end|>"


@pytest.mark.parametrize("token", [-1, 320, 2**31 - 1])
def test_ids_outside_the_vocabulary_have_no_text(tokenizer, token):
    assert tokenizer.piece(token) == b""
    assert tokenizer.written_out(token) == ""


def test_the_end_tokens_are_known(tokenizer):
    assert END in tokenizer.end_tokens
    assert START not in tokenizer.end_tokens


def test_half_a_surrogate_pair_is_the_callers_fault(tokenizer):
    with pytest.raises(InvalidRequestError, match="character 2"):
        tokenizer.encode("ab\ud800", add_special=False, parse_special=False)


def test_merges_make_longer_tokens(tokenizer):
    assert tokenizer.piece(tokenizer.encode(" the", add_special=False, parse_special=False)[0]) == b" the"


def test_the_beginning_token_is_added_where_the_file_wants_it(tmp_path, load_model):
    model = load_model(write_tiny_llama(tmp_path / "bos.gguf", add_bos=True))
    assert model.tokenizer.encode("a", add_special=True, parse_special=False) == [317, ord("a")]
    assert model.tokenizer.encode("a", add_special=False, parse_special=False) == [ord("a")]
    text = model.renderer.render(ChatPrompt(({"role": "user", "content": "a"},))).text
    assert text.startswith("<|endoftext|><|im_start|>user")


def test_threads_may_share_a_tokenizer(tokenizer):
    texts = [f"thread {number} says the same the {number}" * 20 for number in range(32)]
    with ThreadPoolExecutor(8) as pool:
        encoded = list(pool.map(lambda text: tokenizer.encode(text, add_special=False, parse_special=True), texts))
        decoded = list(pool.map(lambda tokens: text_of(tokenizer, tokens).decode(), encoded))
    assert decoded == texts
