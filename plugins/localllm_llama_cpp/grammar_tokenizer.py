"""Shows a model's vocabulary to llguidance."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Collection
from typing import Any

import llama_cpp.llama_cpp as lib
from llguidance import LLTokenizer

_SPECIAL = b"\xff"  # llguidance: begins the bytes of a token that is not text
_PIECE_BYTES = 1024


class GrammarVocabulary:
    """A loaded vocabulary as grammars see it; llguidance's own form of it is built when it is first asked for.

    That takes 0.2 s with 32,000 tokens and 0.6 s with 152,000, the second half with the interpreter lock held, and some
    400 bytes a token. Safe to use from several threads. It keeps the vocabulary's pointer: close it before the
    model is freed.
    """

    def __init__(self, vocab: Any, end_tokens: Collection[int]) -> None:  # noqa: ANN401  # llama_vocab pointer
        self._vocab = vocab
        self._end_tokens = end_tokens
        n_vocab = int(lib.llama_vocab_n_tokens(vocab))
        ends = _grammar_ends(vocab, end_tokens)
        self.eos_tokens = ends or [n_vocab]
        self.vocab_size = n_vocab + (not ends)
        self._lock = threading.Lock()
        self._built: LLTokenizer | None = None
        self._closed = False

    def is_special_token(self, token: int) -> bool:
        """Whether a token is no text to a grammar."""
        if not 0 <= token < self.vocab_size:
            return False
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        return token in self.eos_tokens or _piece(self._vocab, token, buffer).startswith(_SPECIAL)

    def build(self) -> LLTokenizer:
        """Return llguidance's tokenizer. Raises ``RuntimeError`` once it is closed."""
        with self._lock:
            if self._closed:
                message = "the model is closed"
                raise RuntimeError(message)
            if self._built is None:
                self._built = grammar_tokenizer(self._vocab, self._end_tokens)
            return self._built

    def build_ahead(self) -> None:
        """Build it now, unless it is closed."""
        with self._lock:
            if self._built is None and not self._closed:
                self._built = grammar_tokenizer(self._vocab, self._end_tokens)

    def close(self) -> None:
        """Let go of the vocabulary, after waiting for whoever builds."""
        with self._lock:
            self._closed, self._built = True, None


def grammar_tokenizer(vocab: Any, end_tokens: Collection[int]) -> LLTokenizer:  # noqa: ANN401  # llama_vocab pointer
    """Build llguidance's tokenizer from a loaded vocabulary, whose pointer it keeps: drop it before the model.

    As ``llguidance.llamacpp`` does it, at twice the speed.
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
