"""What embeddings and rerank share: acquire a model that pools, check what it gives, and note it in the record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from math import isfinite
from struct import unpack
from typing import TYPE_CHECKING

from starlette.requests import Request

from localllm.contract.backend import ModelClient
from localllm.contract.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    ModelUnsupportedError,
    ProtocolError,
)
from localllm.contract.model import Mode, ModelKind
from localllm.contract.pooling import (
    Pooled,
    PoolEvent,
    PoolFinished,
    PoolingInfo,
    PoolRequest,
    PoolStarted,
    check_pool_request,
)
from localllm.server.disconnect import close_iterator
from localllm.server.model_options import model_options
from localllm.server.record import RequestRecord, request_record

if TYPE_CHECKING:
    from localllm.context import PluginContext

PIECE_FLOATS = 16 * 1024
"""More than that is handed on in several events, between which other tasks run: a millisecond of work for a reader."""

_FLOAT_BYTES = 4
_WORKER_PARAMS = frozenset({None, "input", "documents"})  # the worker's words for the texts of any endpoint


class PoolingModel:
    """A model that is loaded to pool, lent to one request; :func:`borrow_pooler` makes it."""

    def __init__(self, model_id: str, client: ModelClient, info: PoolingInfo, record: RequestRecord) -> None:
        self.info = info
        self.model_id = model_id
        self._client = client
        self._record = record

    async def stream(self, pool: PoolRequest, *, param: str = "input") -> AsyncGenerator[PoolEvent, None]:
        """Yield the events of one pooling request; closing the generator early cancels it in the worker.

        Each input is answered exactly once, by as many finite floats as it should be, and ``PoolFinished`` comes last,
        or else ``ProtocolError`` is raised. One event brings at most 16,384 floats (or one vector). ``pool.owner`` is
        replaced by the caller's own.
        Raises what ``check_pool_request`` and ``ModelClient.pool`` raise, ``param`` naming the field that the texts
        come from.
        """
        record, complete = self._record, False
        wanted = None if self.info.kind == "rank" else pool.dimensions
        answer = _Answer(self.model_id, len(pool.inputs), wanted or self.info.dimensions)
        events = self._client.pool(replace(pool, owner=record.owner))
        try:
            check_pool_request(pool, self.info, f"Model {self.model_id!r}")
            async for event in events:
                match event:
                    case PoolStarted(prompt_tokens=prompt_tokens):
                        record.add_pooling(prompt_tokens)
                        yield event
                    case Pooled():
                        for piece in answer.take(event):
                            yield piece
                            await asyncio.sleep(0)
                    case PoolFinished(compute_ms=compute_ms):
                        answer.check_end()
                        record.add_pooling(0, compute_ms)
                        complete = True
                        yield event
            if not complete:
                raise answer.fault("ended without saying that its answer is complete; send the request again")
        except (InvalidRequestError, ContextLengthExceededError) as error:
            if error.param in _WORKER_PARAMS:
                error.param = param
            raise
        except (GeneratorExit, asyncio.CancelledError):
            if not complete:  # a consumer may well stop after the last event
                record.finish = "cancelled"
            raise
        finally:
            await close_iterator(events)


@asynccontextmanager
async def borrow_pooler(
    request: Request, context: PluginContext, model: str | None, *, purpose: ModelKind | None = None
) -> AsyncIterator[PoolingModel]:
    """Load ``model`` to pool if need be and keep it loaded inside the ``async with``.

    For endpoints that must know what the model gives before they ask it, or that ask it several times; the others take
    :func:`stream_pooling`. ``model`` and ``purpose`` are what ``ModelAccess.resolve`` takes. The request's log line and
    its ``RequestFinished`` event get model, token counts and finish from here. Raises what ``ModelAccess.resolve`` and
    ``acquire`` raise.
    """
    record = request_record(request.scope)
    with record.noting_failure():
        spec = context.models.resolve(model, Mode.POOL, purpose)
        record.model = spec.id
        options = model_options(request)
        async with context.models.acquire(
            spec.id, Mode.POOL, autoload=options.autoload, ttl_seconds=options.ttl_seconds
        ) as client:
            info = client.info.pooling
            if info is None:
                message = f"Model {spec.id!r} was loaded to pool, but its engine {spec.backend!r} tells nothing of it."
                raise ModelUnsupportedError(message, param="model")
            yield PoolingModel(spec.id, client, info, record)


async def stream_pooling(
    request: Request,
    context: PluginContext,
    model: str | None,
    pool: PoolRequest,
    *,
    purpose: ModelKind | None = ModelKind.EMBEDDING,
    param: str = "input",
) -> AsyncGenerator[PoolEvent, None]:
    """Yield the events of one pooling request to ``model`` (id, alias, None for the default of ``purpose``).

    The model is loaded if need be, and kept, until the generator ends; closing it early (``aclose``, or a
    cancellation) cancels the request in the worker. It promises and raises what :func:`borrow_pooler` and
    :meth:`PoolingModel.stream` do. Wrap it in ``contextlib.aclosing`` when you may leave the loop early.
    """
    async with (
        borrow_pooler(request, context, model, purpose=purpose) as pooler,
        aclosing(pooler.stream(pool, param=param)) as events,
    ):
        async for event in events:
            yield event


class _Answer:
    """Which inputs were answered, and whether by what was promised."""

    def __init__(self, model_id: str, n_inputs: int, dimensions: int) -> None:
        self._model_id = model_id
        self._dimensions = dimensions
        self._missing = set(range(n_inputs))

    def take(self, event: Pooled) -> Iterator[Pooled]:
        """Check one event and yield it in pieces."""
        n_vectors, width = len(event.indices), self._dimensions * _FLOAT_BYTES
        if len(event.data) != n_vectors * width:
            raise self.fault(f"gave {len(event.data)} bytes for {n_vectors} vectors of {self._dimensions} floats")
        step = max(1, PIECE_FLOATS // self._dimensions)
        for start in range(0, n_vectors, step):
            indices = event.indices[start : start + step]
            for index in indices:
                if index not in self._missing:
                    raise self.fault(f"answered input {index}, which it was not asked for or had answered before")
                self._missing.remove(index)
            data = event.data[start * width : (start + len(indices)) * width]
            if not isfinite(sum(unpack(f"<{len(data) // _FLOAT_BYTES}f", data))):
                raise self.fault("gave numbers that are not finite; its file or its build is faulty")
            yield Pooled(indices, data)

    def check_end(self) -> None:
        if self._missing:
            raise self.fault(f"ended without an answer to {len(self._missing)} inputs")

    def fault(self, what: str) -> ProtocolError:
        return ProtocolError(f"Model {self._model_id!r} {what}.")
