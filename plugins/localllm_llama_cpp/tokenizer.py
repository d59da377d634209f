"""Text to tokens and back, by the vocabulary inside the model file."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from localllm import InfillTokens, InvalidRequestError

_PIECE_BYTES = 64  # longer pieces are asked for again with room enough
_LONGEST_TEXT = 0x7FFFFFFF // 2  # bytes; the library counts in 32 bits, and a text may grow while it is normalised


class LlamaTokenizer:
    """The tokenizer of one loaded model. Safe to use from several threads: the library's vocabulary is read-only."""

    def __init__(self, vocab: Any) -> None:  # noqa: ANN401  # llama_vocab pointer
        self._vocab = vocab
        self.n_vocab = int(lib.llama_vocab_n_tokens(vocab))
        self.end_tokens = frozenset(token for token in range(self.n_vocab) if lib.llama_vocab_is_eog(vocab, token))
        self._pieces: dict[int, bytes] = {}
        self._spellings: dict[int, bytes] = {}
        self.infill_tokens = _infill_tokens(vocab)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return token ids. ``add_special`` adds what the file wants around a text, such as a first token.

        Raises ``InvalidRequestError`` (param "prompt").
        """
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            message = f"The prompt holds half of a surrogate pair at character {error.start}; leave it out."
            raise InvalidRequestError(message, param="prompt") from error
        if len(data) > _LONGEST_TEXT:
            message = f"The prompt has {len(data)} bytes; at most {_LONGEST_TEXT} can be tokenised."
            raise InvalidRequestError(message, param="prompt")
        room = len(data) // 2 + 16  # most texts need less; the library says how many it wanted
        tokens = (lib.llama_token * room)()
        count = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, parse_special)
        if count < 0:
            room = -count
            tokens = (lib.llama_token * room)()
            count = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, parse_special)
        return list(tokens[:count])

    def encode_plain(self, text: str) -> list[int]:
        """Return the token ids of a text by itself, in which no control token is read."""
        return self.encode(text, add_special=False, parse_special=False)

    def piece(self, token: int) -> bytes:
        """Return the exact bytes of ``token``; b"" for control tokens and for ids that the vocabulary lacks."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._look_up(token, special=False)
        return piece

    def spelling(self, token: int) -> bytes:
        """Return what :meth:`piece` does, but a control token as templates write it out."""
        spelling = self._spellings.get(token)
        if spelling is None:
            spelling = self._spellings[token] = self._look_up(token, special=True)
        return spelling

    def written_out(self, token: int) -> str:
        """Return how a token, control tokens too, is spelled in templates; "" for -1, which means "none"."""
        return self.spelling(token).decode("utf-8", errors="replace")

    def _look_up(self, token: int, *, special: bool) -> bytes:
        if not 0 <= token < self.n_vocab:
            return b""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        size = lib.llama_token_to_piece(self._vocab, token, buffer, _PIECE_BYTES, 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = lib.llama_token_to_piece(self._vocab, token, buffer, -size, 0, special)
        return buffer.raw[: max(size, 0)]


def _infill_tokens(vocab: Any) -> InfillTokens | None:  # noqa: ANN401  # llama_vocab pointer
    """Return the fill-in-the-middle tokens: named by the file, or known to the library by their texts."""
    found = InfillTokens(
        prefix=int(lib.llama_vocab_fim_pre(vocab)),
        suffix=int(lib.llama_vocab_fim_suf(vocab)),
        middle=int(lib.llama_vocab_fim_mid(vocab)),
    )
    return found if min(found) >= 0 else None


def suppressed_tokens(vocab: Any) -> frozenset[int]:  # noqa: ANN401  # llama_vocab pointer
    """Return the tokens that the file says must never be drawn (``tokenizer.ggml.suppress_tokens``)."""
    count = ctypes.c_int32(0)
    tokens = lib.llama_vocab_get_suppress_tokens(vocab, ctypes.byref(count))
    listed: Iterable[int] = np.ctypeslib.as_array(tokens, shape=(count.value,)).tolist() if count.value else ()
    return frozenset(listed)
