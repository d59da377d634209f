"""The events of pooling as rows of a ``Batch``: vectors go as base64, which costs a quarter of JSON numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from localllm.contract.pooling import Pooled, PoolFinished, PoolStarted
from localllm.transport.shapes import (
    decode_bytes,
    decode_float,
    decode_integers,
    encode_bytes,
    encode_float,
    take_fields,
    wrong,
)

# Above those of generations, which are in batch.py.
_POOL_STARTED: Final = 32
_POOLED: Final = 33
_POOL_FINISHED: Final = 34

_FLOAT_BYTES: Final = 4


def encode_pool_event(request_id: str, event: PoolStarted | Pooled | PoolFinished) -> list[Any]:
    """Return ``[tag, request id, ...]``."""
    match event:
        case Pooled(indices=indices, data=data):
            return [_POOLED, request_id, indices, encode_bytes(data)]
        case PoolStarted(prompt_tokens=prompt_tokens):
            return [_POOL_STARTED, request_id, prompt_tokens]
        case PoolFinished(prompt_tokens=prompt_tokens, truncated=truncated):
            times = [encode_float(event.queue_ms), encode_float(event.compute_ms)]
            return [_POOL_FINISHED, request_id, prompt_tokens, truncated, times]


def _decode_started(row: list[Any]) -> PoolStarted:
    (prompt_tokens,) = take_fields(row, int)
    return PoolStarted(prompt_tokens)


def _decode_pooled(row: list[Any]) -> Pooled:
    indices, text = take_fields(row, list, str)
    data = decode_bytes(text)
    if not indices or not data or len(data) % (_FLOAT_BYTES * len(indices)):
        raise wrong(f"{len(indices)} vectors of equal length", text)
    return Pooled(decode_integers(indices), data)


def _decode_finished(row: list[Any]) -> PoolFinished:
    prompt_tokens, truncated, times = take_fields(row, int, list, list)
    queue_ms, compute_ms = take_fields(times, object, object)
    return PoolFinished(prompt_tokens, decode_integers(truncated), decode_float(queue_ms), decode_float(compute_ms))


POOL_DECODERS: dict[int, Callable[[list[Any]], PoolStarted | Pooled | PoolFinished]] = {
    _POOL_STARTED: _decode_started,
    _POOLED: _decode_pooled,
    _POOL_FINISHED: _decode_finished,
}
"""By tag: what follows the request id, to the event. They raise ``ProtocolError``."""
