"""What an endpoint may rely on when it pools: every input answered once, in small events, counted, and let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from struct import pack
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from localllm.contract.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    LocalLLMError,
    ModelNotFoundError,
    ModelUnsupportedError,
    ProtocolError,
    WorkerCrashedError,
)
from localllm.contract.generation import TextPrompt
from localllm.contract.model import Mode, ModelInfo, ModelKind, ModelSpec
from localllm.contract.pooling import (
    PairPrompt,
    Pooled,
    PoolEvent,
    PoolFinished,
    PoolingInfo,
    PoolRequest,
    PoolStarted,
)
from localllm.server.pooling import PIECE_FLOATS, stream_pooling
from localllm.server.record import RequestRecord, request_record

TEXTS = PoolRequest((TextPrompt("a"), TextPrompt("b"), TextPrompt("c")))
VECTORS = PoolingInfo("mean", 2)
SCORES = PoolingInfo("rank", 1, "logit")


def floats(*values: float) -> bytes:
    return pack(f"<{len(values)}f", *values)


GOOD = [
    PoolStarted(9),
    Pooled((2, 0), floats(5, 6, 1, 2)),
    Pooled((1,), floats(3, 4)),
    PoolFinished(9, compute_ms=3.0),
]


class Models:
    """One model that plays ``events``; an exception among them is raised."""

    def __init__(self, events: Iterable[PoolEvent | Exception], pooling: PoolingInfo | None = VECTORS) -> None:
        self.events = list(events)
        self.info = ModelInfo(context_length=64, n_vocab=8, pooling=pooling)
        self.asked: list[PoolRequest] = []
        self.purposes: list[ModelKind | None] = []
        self.open = 0

    def resolve(self, name: str | None, mode: Mode, purpose: ModelKind | None = None) -> ModelSpec:
        assert mode is Mode.POOL
        self.purposes.append(purpose)
        if name == "nobody":
            raise ModelNotFoundError("There is no model 'nobody'.", param="model")
        return ModelSpec("m", "engine")

    @asynccontextmanager
    async def acquire(
        self,
        name: str | None,
        mode: Mode,
        *,
        autoload: bool = True,
        ttl_seconds: float | None = None,
        affinity: int | None = None,
    ) -> AsyncIterator[Models]:
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1

    async def pool(self, request: PoolRequest) -> AsyncIterator[PoolEvent]:
        self.asked.append(request)
        self.open += 1
        try:
            for event in self.events:
                await asyncio.sleep(0)
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.open -= 1


def play(models: Models, pool: PoolRequest = TEXTS, **options: Any) -> tuple[list[PoolEvent], RequestRecord]:
    """Read all events; the record is there to be looked at even if reading fails."""
    request = Request({"type": "http", "headers": []})
    record = request_record(request.scope)
    record.owner = "key"
    models.record = record  # type: ignore[attr-defined]

    async def read() -> list[PoolEvent]:
        context: Any = SimpleNamespace(models=models)
        return [event async for event in stream_pooling(request, context, options.pop("model", None), pool, **options)]

    return asyncio.run(read()), record


def test_events_come_through_and_are_counted() -> None:
    models = Models(GOOD)
    events, record = play(models)
    assert events == GOOD
    assert [vector for event in events if isinstance(event, Pooled) for vector in event.vectors()] == [
        (2, floats(5, 6)),
        (0, floats(1, 2)),
        (1, floats(3, 4)),
    ]
    assert models.asked == [PoolRequest(TEXTS.inputs, owner="key")]
    assert models.purposes == [ModelKind.EMBEDDING]
    assert (record.model, record.prompt_tokens, record.completion_tokens, record.finish) == ("m", 9, None, None)
    assert record.tokens_per_second == pytest.approx(3000)
    assert models.open == 0


def test_a_large_event_comes_in_small_ones() -> None:
    width = PIECE_FLOATS // 2
    data = bytes(4 * width * 5)
    pool = PoolRequest(tuple(TextPrompt("a") for _ in range(5)))
    models = Models([PoolStarted(5), Pooled((4, 3, 2, 1, 0), data), PoolFinished(5)], PoolingInfo("cls", width))
    events, _ = play(models, pool)
    pieces = [event for event in events if isinstance(event, Pooled)]
    assert [piece.indices for piece in pieces] == [(4, 3), (2, 1), (0,)]
    assert b"".join(piece.data for piece in pieces) == data


FAULTS: dict[str, list[PoolEvent]] = {
    "no end": GOOD[:-1],
    "nothing at all": [],
    "an input unanswered": [GOOD[0], GOOD[1], GOOD[3]],
    "an input answered twice": [GOOD[0], GOOD[1], GOOD[1], *GOOD[2:]],
    "an input that there is not": [GOOD[0], Pooled((3,), floats(1, 2))],
    "a negative input": [GOOD[0], Pooled((-1,), floats(1, 2))],
    "a vector too short": [GOOD[0], Pooled((0,), floats(1))],
    "half a float": [GOOD[0], Pooled((0,), b"1234567")],
    "not a number": [GOOD[0], Pooled((0,), floats(1, float("nan")))],
    "infinite": [GOOD[0], Pooled((0,), floats(float("-inf"), 1))],
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_answer_is_the_models_fault(name: str) -> None:
    models = Models(FAULTS[name])
    with pytest.raises(ProtocolError, match="Model 'm' "):
        play(models)
    assert models.record.finish == "protocol_error"  # type: ignore[attr-defined]
    assert models.open == 0


@pytest.mark.parametrize(
    ("error", "param"),
    [
        (ContextLengthExceededError(9, 8), "texts"),
        (ContextLengthExceededError(9, 8, param="input"), "texts"),
        (ContextLengthExceededError(9, 8, param="documents"), "texts"),
        (ContextLengthExceededError(9, 8, param="query"), "query"),
        (InvalidRequestError("token 9 is not in the vocabulary", param="input"), "texts"),
        (WorkerCrashedError("gone"), None),
    ],
)
def test_errors_name_the_endpoints_field(error: LocalLLMError, param: str | None) -> None:
    models = Models([PoolStarted(4), error])
    with pytest.raises(type(error)) as caught:
        play(models, param="texts")
    assert caught.value.param == param
    record: RequestRecord = models.record  # type: ignore[attr-defined]
    assert (record.finish, record.prompt_tokens) == (error.code, 4)


def test_an_unknown_model_is_in_the_record() -> None:
    models = Models(GOOD)
    with pytest.raises(ModelNotFoundError):
        play(models, model="nobody")
    assert models.record.finish == "model_not_found"  # type: ignore[attr-defined]


PAIRS = PoolRequest((PairPrompt("q", "d"),))


@pytest.mark.parametrize(
    ("pooling", "pool", "kind", "words"),
    [
        (SCORES, TEXTS, ModelUnsupportedError, "scores pairs of texts"),
        (VECTORS, PAIRS, ModelUnsupportedError, "no classification head"),
        (None, TEXTS, ModelUnsupportedError, "tells nothing"),
        (
            VECTORS,
            PoolRequest(TEXTS.inputs, dimensions=3),
            InvalidRequestError,
            "'m' gives vectors of 1 to 2 dimensions",
        ),
        (VECTORS, PoolRequest(()), InvalidRequestError, "no input"),
        (VECTORS, PoolRequest((*TEXTS.inputs, *PAIRS.inputs)), ModelUnsupportedError, "Model 'm' gives vectors"),
    ],
)
def test_what_the_model_does_not_give_is_refused_before_it_is_asked(
    pooling: PoolingInfo | None, pool: PoolRequest, kind: type[LocalLLMError], words: str
) -> None:
    models = Models(GOOD, pooling)
    with pytest.raises(kind, match=words):
        play(models, pool)
    assert models.asked == []


def test_scores_have_one_float_whatever_dimensions_are_asked_for() -> None:
    pool = PoolRequest(PAIRS.inputs, dimensions=7)
    events, _ = play(Models([PoolStarted(1), Pooled((0,), floats(0.5)), PoolFinished(1)], SCORES), pool)
    assert events[1] == Pooled((0,), floats(0.5))


@pytest.mark.parametrize(("n_read", "finish"), [(1, "cancelled"), (2, "cancelled"), (4, None)])
def test_a_reader_that_leaves_early_cancels(n_read: int, finish: str | None) -> None:
    models = Models(GOOD)
    request = Request({"type": "http", "headers": []})

    async def read() -> None:
        context: Any = SimpleNamespace(models=models)
        async with aclosing(stream_pooling(request, context, None, TEXTS)) as events:
            for _ in range(n_read):
                await anext(events)
            assert models.open == 2
        assert models.open == 0

    asyncio.run(read())
    assert request_record(request.scope).finish == finish
