"""The closed set of messages between the two processes, to bytes and back; anything else is a ``ProtocolError``."""

from __future__ import annotations

from typing import Any, cast, get_args

import orjson

from localllm.contract.errors import ProtocolError
from localllm.contract.wire import Batch, FromWorker, LoadFailed, Ready, ToWorker
from localllm.transport.batch import decode_batch, encode_batch
from localllm.transport.shapes import Shape, union_of

_TO_WORKER: Shape = union_of(get_args(ToWorker))
_FROM_WORKER: Shape = union_of((Ready, LoadFailed))
_BATCH = Batch.__name__


def encode_to_worker(message: ToWorker) -> bytes:
    """Return the payload of a frame. Raises ``ProtocolError`` for what JSON can not hold (a lone surrogate)."""
    return _dumps(_TO_WORKER.encode(message))


def decode_to_worker(payload: bytes) -> ToWorker:
    """Undo :func:`encode_to_worker`. Raises ``ProtocolError``."""
    return cast(ToWorker, _TO_WORKER.decode(_loads(payload)))


def encode_from_worker(message: FromWorker) -> bytes:
    """Return the payload of a frame. Raises ``ProtocolError`` when a value has no JSON form."""
    if type(message) is Batch:
        return _dumps([_BATCH, encode_batch(message)])
    return _dumps(_FROM_WORKER.encode(message))


def decode_from_worker(payload: bytes) -> FromWorker:
    """Undo :func:`encode_from_worker`. Raises ``ProtocolError``."""
    data = _loads(payload)
    if type(data) is list and len(data) == 2 and data[0] == _BATCH:
        return decode_batch(data[1])
    return cast(FromWorker, _FROM_WORKER.decode(data))


def _dumps(data: Any) -> bytes:  # noqa: ANN401
    try:
        return orjson.dumps(data)
    except orjson.JSONEncodeError as error:
        message = f"A message can't be written as JSON: {error}."
        raise ProtocolError(message) from None


def _loads(payload: bytes) -> Any:  # noqa: ANN401
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        message = f"A frame is not JSON: {error}."
        raise ProtocolError(message) from None
