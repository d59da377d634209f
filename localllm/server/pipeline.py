"""What chat and completions share: acquire a model, generate, and note in the request's record what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.requests import Request

from localllm.contract.errors import ContextLengthExceededError, LocalLLMError
from localllm.contract.generation import (
    CallDelta,
    ChatPrompt,
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Started,
)
from localllm.contract.model import Mode
from localllm.server.disconnect import close_iterator
from localllm.server.model_options import model_options
from localllm.server.record import RequestRecord, request_record

if TYPE_CHECKING:
    from localllm.context import PluginContext


async def stream_generation(
    request: Request, context: PluginContext, model: str | None, generate: GenerateRequest
) -> AsyncGenerator[GenerateEvent, None]:
    """Yield the events of one generation by ``model`` (id, alias, None for the default).

    The model is loaded if need be, and kept, until the generator ends; closing it early (``aclose``, or a
    cancellation) cancels the generation in the worker. ``generate.owner`` is replaced by the caller's own, so that no
    endpoint can forget whose prefixes may be reused. The request's log line and its ``RequestFinished`` event get
    model, token counts, time to first token and finish from here.

    Raises what ``ModelAccess.acquire`` and ``ModelClient.generate`` raise; ``ContextLengthExceededError`` gets
    ``param`` "messages" or "prompt". Wrap it in ``contextlib.aclosing`` when you may leave the loop early.
    """
    record = request_record(request.scope)
    complete = False
    started: Started | None = None
    n_written = 0
    try:
        record.model = context.models.resolve(model, Mode.GENERATE).id
        options = model_options(request)
        async with context.models.acquire(
            model, Mode.GENERATE, autoload=options.autoload, ttl_seconds=options.ttl_seconds
        ) as client:
            events = client.generate(replace(generate, owner=record.owner))
            try:
                async for event in events:
                    _note(record, event)
                    if isinstance(event, Started):
                        started = event
                    elif isinstance(event, Chunk | CallDelta):
                        n_written += event.tokens
                    complete = isinstance(event, Finished)
                    yield event
            finally:
                await close_iterator(events)
    except ContextLengthExceededError as error:
        if error.param is None:
            error.param = "messages" if isinstance(generate.prompt, ChatPrompt) else "prompt"
        record.finish = error.code
        raise
    except LocalLLMError as error:
        record.finish = error.code
        raise
    except (GeneratorExit, asyncio.CancelledError):
        if not complete:  # a consumer may well stop after the last event
            record.finish = "cancelled"
        raise
    finally:
        if started is not None and not complete:
            record.add_unfinished(started.prompt_tokens, n_written)


def _note(record: RequestRecord, event: GenerateEvent) -> None:
    match event:
        case Chunk(tokens=tokens) | CallDelta(tokens=tokens) if tokens and record.first_token_at is None:
            record.first_token_at = record.clock()
        case ChoiceFinished(reason=reason) if record.finish != "length":
            record.finish = reason  # of several choices, one that was cut short is worth telling
        case Finished(usage=usage, timings=timings):
            record.add_usage(usage, timings)
