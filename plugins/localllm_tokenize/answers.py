"""The answer of ``/tokenize``, which may hold a million tokens, in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import orjson

from localllm import TextResult

_AT_ONCE: Final = 1_024


def tokenize_pieces(result: TextResult, *, max_model_len: int, with_pieces: bool, token_strs: bool) -> Iterator[bytes]:
    """Yield the JSON of an answer, some tokens at a time.

    A token's piece that is no UTF-8 by itself is a list of bytes, as in llama.cpp's server; in ``token_strs`` it has
    U+FFFD, as in vLLM's.
    """
    yield b'{"tokens":['
    if with_pieces:
        pairs = zip(result.tokens, result.pieces, strict=True)
        yield from _items({"id": token, "piece": _piece(piece)} for token, piece in pairs)
    else:
        yield from _items(result.tokens)
    if token_strs:
        yield b'],"token_strs":['
        yield from _items(piece.decode("utf-8", "replace") for piece in result.pieces)
    yield b'],"count":%d,"max_model_len":%d}' % (len(result.tokens), max_model_len)


def _items(values: Iterable[object]) -> Iterator[bytes]:
    """Yield the inside of a JSON list."""
    rest, comma = iter(values), b""
    while part := list(islice(rest, _AT_ONCE)):
        yield comma + orjson.dumps(part)[1:-1]
        comma = b","


def _piece(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
