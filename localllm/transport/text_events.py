"""The answer to a request about texts as a row of a ``Batch``: pieces go as one text, not as one for each token."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any, Final

from localllm.contract.texts import TextResult
from localllm.transport.shapes import decode_bytes, decode_integers, encode_bytes, take_fields, wrong

TEXT_RESULT: Final = 64  # above the tags of generations and of pooling


def encode_text_result(request_id: str, event: TextResult) -> list[Any]:
    """Return ``[tag, request id, ...]``."""
    lengths = [len(piece) for piece in event.pieces]
    return [TEXT_RESULT, request_id, event.text, event.tokens, lengths, encode_bytes(b"".join(event.pieces))]


def decode_text_result(row: list[Any]) -> TextResult:
    """Undo :func:`encode_text_result`, from behind the request id. Raises ``ProtocolError``."""
    text, tokens, lengths, joined = take_fields(row, str, list, list, str)
    data = decode_bytes(joined)
    sizes = decode_integers(lengths)
    if min(sizes, default=0) < 0 or sum(sizes) != len(data):
        raise wrong("pieces of the lengths that are given", lengths)
    pieces = tuple([data[start:end] for start, end in pairwise(accumulate(sizes, initial=0))])
    return TextResult(text, decode_integers(tokens), pieces)
