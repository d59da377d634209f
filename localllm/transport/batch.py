"""The hot path of the wire: a worker's ``Batch``, one per engine step, written as arrays instead of objects.

An event is ``[tag, request id, ...]``; the tags are the constants below. A chunk without log-probabilities, which is
nearly every event there is, costs one small list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from localllm.contract.errors import ProtocolError
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Failed,
    Finished,
    Started,
    Timings,
    TokenAlternative,
    TokenLogprob,
    Usage,
)
from localllm.contract.wire import Batch, WorkerEvent
from localllm.transport.shapes import decode_bytes, decode_float, encode_bytes, encode_float, wrong

_CHUNK: Final = 0
_CHUNK_LOGPROBS: Final = 1
_STARTED: Final = 2
_CHOICE_FINISHED: Final = 3
_FINISHED: Final = 4
_FAILED: Final = 5


def encode_batch(batch: Batch) -> list[Any]:
    """Return ``[prefilled tokens, [event, ...]]``."""
    rows = [
        [_CHUNK, request_id, event.choice, event.text, event.tokens]
        if type(event) is Chunk and not event.logprobs
        else _encode_other(request_id, event)
        for request_id, event in batch.events
    ]
    return [batch.prefilled_tokens, rows]


def decode_batch(data: Any) -> Batch:  # noqa: ANN401
    """Undo :func:`encode_batch`. Raises ``ProtocolError``."""
    if type(data) is not list or len(data) != 2 or type(data[0]) is not int or type(data[1]) is not list:
        raise wrong("a batch", data)
    return Batch(events=tuple([_decode_event(row) for row in data[1]]), prefilled_tokens=data[0])


def _encode_other(request_id: str, event: WorkerEvent) -> list[Any]:
    match event:
        case Chunk():
            logprobs = [_encode_logprob(item) for item in event.logprobs]
            return [_CHUNK_LOGPROBS, request_id, event.choice, event.text, event.tokens, logprobs]
        case Started():
            return [_STARTED, request_id, event.prompt_tokens]
        case ChoiceFinished():
            return [_CHOICE_FINISHED, request_id, event.choice, event.reason, event.stop]
        case Finished(usage=usage, timings=timings):
            counts = [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens]
            times = [encode_float(ms) for ms in (timings.queue_ms, timings.prompt_ms, timings.predicted_ms)]
            return [_FINISHED, request_id, counts, times]
        case Failed():
            return [_FAILED, request_id, dict(event.error)]
    message = f"{type(event).__name__} is no event of a generation."
    raise ProtocolError(message)


def _decode_event(row: Any) -> tuple[str, WorkerEvent]:  # noqa: ANN401
    if type(row) is list and len(row) > 2:
        tag, request_id = row[0], row[1]
        if type(request_id) is str and type(tag) is int:
            if tag == _CHUNK and len(row) == 5:
                _, _, choice, text, tokens = row
                if type(choice) is int and type(text) is str and type(tokens) is int:
                    return request_id, Chunk(choice, text, tokens)
            decoder = _DECODERS.get(tag)
            if decoder is not None:
                return request_id, decoder(row[2:])
    raise wrong("an event", row)


def _decode_chunk_logprobs(row: list[Any]) -> Chunk:
    choice, text, tokens, logprobs = _fields(row, int, str, int, list)
    return Chunk(choice, text, tokens, tuple([_decode_logprob(item) for item in logprobs]))


def _decode_started(row: list[Any]) -> Started:
    (prompt_tokens,) = _fields(row, int)
    return Started(prompt_tokens)


def _decode_choice_finished(row: list[Any]) -> ChoiceFinished:
    choice, reason, stop = _fields(row, int, str, object)
    if reason not in ("stop", "length") or not (stop is None or type(stop) is str):
        raise wrong("the end of a choice", row)
    return ChoiceFinished(choice, reason, stop)


def _decode_finished(row: list[Any]) -> Finished:
    counts, times = _fields(row, list, list)
    usage = Usage(*_fields(counts, int, int, int))
    queue_ms, prompt_ms, predicted_ms = _fields(times, object, object, object)
    return Finished(usage, Timings(decode_float(queue_ms), decode_float(prompt_ms), decode_float(predicted_ms)))


def _decode_failed(row: list[Any]) -> Failed:
    (error,) = _fields(row, dict)
    if type(error.get("code")) is not str or type(error.get("message")) is not str:
        raise wrong("an error with code and message", error)
    return Failed(error)


_DECODERS: dict[int, Callable[[list[Any]], WorkerEvent]] = {
    _CHUNK_LOGPROBS: _decode_chunk_logprobs,
    _STARTED: _decode_started,
    _CHOICE_FINISHED: _decode_choice_finished,
    _FINISHED: _decode_finished,
    _FAILED: _decode_failed,
}


def _encode_logprob(item: TokenLogprob) -> list[Any]:
    top = [[other.text, encode_bytes(other.bytes), encode_float(other.logprob)] for other in item.top]
    return [item.text, encode_bytes(item.bytes), encode_float(item.logprob), top]


def _decode_logprob(data: Any) -> TokenLogprob:  # noqa: ANN401
    text, raw, logprob, top = _fields(data, str, str, object, list)
    return TokenLogprob(text, decode_bytes(raw), decode_float(logprob), tuple([_decode_top(row) for row in top]))


def _decode_top(data: Any) -> TokenAlternative:  # noqa: ANN401
    text, raw, logprob = _fields(data, str, str, object)
    return TokenAlternative(text, decode_bytes(raw), decode_float(logprob))


def _fields(row: Any, *kinds: type) -> list[Any]:  # noqa: ANN401
    """Return ``row`` when it is a list of exactly these types (``object``: any)."""
    if type(row) is not list or len(row) != len(kinds):
        raise wrong(f"a list of {len(kinds)} values", row)
    for item, kind in zip(row, kinds, strict=True):
        if kind is not object and type(item) is not kind:
            raise wrong(kind.__name__, item)
    return row
