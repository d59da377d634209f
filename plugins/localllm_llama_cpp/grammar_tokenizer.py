"""Shows a model's vocabulary to llguidance."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import Any

import llama_cpp.llama_cpp as lib
from llguidance import LLTokenizer

_SPECIAL = b"\xff"  # llguidance: begins the bytes of a token that is not text
_PIECE_BYTES = 1024


def grammar_tokenizer(vocab: Any, end_tokens: Collection[int]) -> LLTokenizer:  # noqa: ANN401  # llama_vocab pointer
    """Build llguidance's tokenizer from a loaded vocabulary, whose pointer it keeps: drop it before the model.

    Takes 0.2 s with 32,000 tokens and 0.6 s with 152,000, half of it with the interpreter lock held. So this is done
    while a model loads, when nobody waits for a token yet. As ``llguidance.llamacpp`` does it, at twice the speed.
    """
    n_vocab = int(lib.llama_vocab_n_tokens(vocab))
    buffer = ctypes.create_string_buffer(_PIECE_BYTES)
    pieces = [_piece(vocab, token, buffer) for token in range(n_vocab)]
    ends = _grammar_ends(vocab, end_tokens)
    if not ends:
        pieces.append(_SPECIAL + b"<|end|>")  # a stand-in behind the last token, which is never drawn
        ends = [n_vocab]
    tokenize = ctypes.cast(lib._lib.llama_tokenize, ctypes.c_void_p).value  # noqa: SLF001  # as llguidance's bridge
    built: LLTokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # not in its stub
        tokens=pieces, vocab_ptr=vocab, tokenize_fptr=tokenize, eos_token=ends, slices=None
    )
    return built


def _grammar_ends(vocab: Any, end_tokens: Collection[int]) -> list[int]:  # noqa: ANN401
    """Return the tokens that end a text which must match a grammar.

    Not each token that the library calls an end is meant: in some vocabularies one is ordinary text such as ``</s>``.
    """
    named = {int(lib.llama_vocab_eos(vocab)), int(lib.llama_vocab_eot(vocab))} - {-1}
    control = lib.LLAMA_TOKEN_ATTR_CONTROL
    return sorted(named.union(token for token in end_tokens if lib.llama_vocab_get_attr(vocab, token) & control))


def _piece(vocab: Any, token: int, buffer: ctypes.Array[ctypes.c_char]) -> bytes:  # noqa: ANN401
    size = lib.llama_token_to_piece(vocab, token, buffer, _PIECE_BYTES, 0, True)
    if size < 0:
        buffer = ctypes.create_string_buffer(-size)
        size = lib.llama_token_to_piece(vocab, token, buffer, -size, 0, True)
    piece = ctypes.string_at(buffer, max(size, 0))
    attributes = lib.llama_vocab_get_attr(vocab, token)
    if attributes & lib.LLAMA_TOKEN_ATTR_CONTROL or (
        attributes & lib.LLAMA_TOKEN_ATTR_USER_DEFINED and piece.startswith(b"<") and piece.endswith(b">")
    ):
        return _SPECIAL + piece
    return piece
