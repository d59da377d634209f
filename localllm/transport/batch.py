"""The hot path of the wire: a worker's ``Batch``, one per engine step, written as arrays instead of objects.

An event is ``[tag, request id, ...]``; the tags are the constants below. A chunk of an answer's content without
log-probabilities, which is nearly every event there is, costs one small list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, get_args

from localllm.contract.errors import ProtocolError
from localllm.contract.generation import (
    CallDelta,
    ChoiceFinished,
    Chunk,
    Failed,
    Finished,
    FinishReason,
    PromptLogprobs,
    Region,
    Started,
    Timings,
    Usage,
)
from localllm.contract.pooling import Pooled, PoolFinished, PoolStarted
from localllm.contract.texts import TextResult
from localllm.contract.wire import Batch, WorkerEvent
from localllm.transport.logprobs import decode_logprobs, decode_prompt_tokens, encode_logprobs, encode_prompt_tokens
from localllm.transport.pool_events import POOL_DECODERS, encode_pool_event
from localllm.transport.shapes import decode_float, encode_float, take_fields, wrong
from localllm.transport.text_events import TEXT_RESULT, decode_text_result, encode_text_result

_CHUNK: Final = 0
_WHOLE_CHUNK: Final = 1
_STARTED: Final = 2
_CHOICE_FINISHED: Final = 3
_FINISHED: Final = 4
_FAILED: Final = 5
_PROMPT_LOGPROBS: Final = 6
_CALL_DELTA: Final = 7

_REGIONS = frozenset(get_args(Region))
_REASONS = frozenset(get_args(FinishReason))


def encode_batch(batch: Batch) -> list[Any]:
    """Return ``[prefilled tokens, [event, ...]]``."""
    rows = [
        [_CHUNK, request_id, event.choice, event.text, event.tokens]
        if type(event) is Chunk and not event.logprobs and event.region == "content"
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
            logprobs = encode_logprobs(event.logprobs)
            return [_WHOLE_CHUNK, request_id, event.choice, event.text, event.tokens, logprobs, event.region]
        case CallDelta():
            piece = [event.choice, event.index, event.name, event.arguments, event.tokens]
            return [_CALL_DELTA, request_id, *piece, encode_logprobs(event.logprobs)]
        case Started():
            return [_STARTED, request_id, event.prompt_tokens, event.warnings]
        case PromptLogprobs():
            return [_PROMPT_LOGPROBS, request_id, event.prompt, encode_prompt_tokens(event.tokens)]
        case ChoiceFinished():
            return [_CHOICE_FINISHED, request_id, event.choice, event.reason, event.stop]
        case Finished(usage=usage, timings=timings):
            counts = [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens]
            times = [encode_float(ms) for ms in (timings.queue_ms, timings.prompt_ms, timings.predicted_ms)]
            return [_FINISHED, request_id, counts, times]
        case Failed():
            return [_FAILED, request_id, dict(event.error)]
        case PoolStarted() | Pooled() | PoolFinished():
            return encode_pool_event(request_id, event)
        case TextResult():
            return encode_text_result(request_id, event)
    message = f"{type(event).__name__} is no event of a request."
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


def _decode_whole_chunk(row: list[Any]) -> Chunk:
    choice, text, tokens, logprobs, region = take_fields(row, int, str, int, list, str)
    if region not in _REGIONS:
        raise wrong("the region of a chunk", region)
    return Chunk(choice, text, tokens, decode_logprobs(logprobs), region)


def _decode_call_delta(row: list[Any]) -> CallDelta:
    choice, index, name, arguments, tokens, logprobs = take_fields(row, int, int, object, str, int, list)
    if name is not None and type(name) is not str:
        raise wrong("the name of a function or null", name)
    return CallDelta(choice, index, name, arguments, tokens, decode_logprobs(logprobs))


def _decode_started(row: list[Any]) -> Started:
    prompt_tokens, warnings = take_fields(row, int, list)
    if not set(map(type, warnings)) <= {str}:
        raise wrong("a list of sentences", warnings)
    return Started(prompt_tokens, tuple(warnings))


def _decode_prompt_logprobs(row: list[Any]) -> PromptLogprobs:
    prompt, tokens = take_fields(row, int, list)
    return PromptLogprobs(decode_prompt_tokens(tokens), prompt)


def _decode_choice_finished(row: list[Any]) -> ChoiceFinished:
    choice, reason, stop = take_fields(row, int, str, object)
    if reason not in _REASONS or not (stop is None or type(stop) is str):
        raise wrong("the end of a choice", row)
    return ChoiceFinished(choice, reason, stop)


def _decode_finished(row: list[Any]) -> Finished:
    counts, times = take_fields(row, list, list)
    usage = Usage(*take_fields(counts, int, int, int, int))
    queue_ms, prompt_ms, predicted_ms = take_fields(times, object, object, object)
    return Finished(usage, Timings(decode_float(queue_ms), decode_float(prompt_ms), decode_float(predicted_ms)))


def _decode_failed(row: list[Any]) -> Failed:
    (error,) = take_fields(row, dict)
    if type(error.get("code")) is not str or type(error.get("message")) is not str:
        raise wrong("an error with code and message", error)
    return Failed(error)


_DECODERS: dict[int, Callable[[list[Any]], WorkerEvent]] = {
    _WHOLE_CHUNK: _decode_whole_chunk,
    _CALL_DELTA: _decode_call_delta,
    _PROMPT_LOGPROBS: _decode_prompt_logprobs,
    _STARTED: _decode_started,
    _CHOICE_FINISHED: _decode_choice_finished,
    _FINISHED: _decode_finished,
    _FAILED: _decode_failed,
    TEXT_RESULT: decode_text_result,
    **POOL_DECODERS,
}
