"""What chat and completions share: acquire a model, generate, and note in the request's record what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from starlette.requests import Request

from localllm.contract.backend import ModelClient
from localllm.contract.errors import ContextLengthExceededError, LocalLLMError
from localllm.contract.generation import (
    CallDelta,
    ChatPrompt,
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    Prompt,
    Started,
)
from localllm.contract.interception import Asked, SessionWish
from localllm.contract.model import Mode
from localllm.server.affinity import affinity_of
from localllm.server.disconnect import close_iterator
from localllm.server.interception import Interceptions
from localllm.server.model_options import ModelOptions, model_options
from localllm.server.record import RequestRecord, request_record

if TYPE_CHECKING:
    from localllm.context import PluginContext


async def stream_generation(
    request: Request,
    context: PluginContext,
    model: str | None,
    generate: GenerateRequest,
    *,
    session: SessionWish | None = None,
) -> AsyncGenerator[GenerateEvent, None]:
    """Yield the events of one generation by ``model`` (id, alias, None for the default).

    The model is loaded if need be, and kept, until the generator ends; closing it early (``aclose``, or a
    cancellation) cancels the generation in the worker. ``generate.owner`` is replaced by the caller's own, so that no
    endpoint can forget whose prefixes may be reused. The request's log line and its ``RequestFinished`` event get
    model, token counts, time to first token and finish from here.

    ``session`` is the conversation that the request goes on with, or begins: a plugin that keeps conversations puts
    what was said before in front, and what it tells of it stands in ``Started.fields``. The last event comes once the
    answer is kept.

    Raises what interceptors, ``ModelAccess.acquire`` and ``ModelClient.generate`` raise;
    ``ContextLengthExceededError`` gets ``param`` "messages" or "prompt". Wrap it in ``contextlib.aclosing`` when you
    may leave the loop early.
    """
    record = request_record(request.scope)
    parts = Interceptions()
    try:
        with _Progress(record, generate.prompt) as progress:
            spec = context.models.resolve(model, Mode.GENERATE)
            record.model = spec.id
            options = model_options(request)  # what the request says wrongly comes first
            await parts.begin(context, Asked(record.request_id, record.caller, spec, generate, session))
            affinity = affinity_of(generate.prompt, record.owner, parts.session_id)
            async with _acquire(context, spec.id, options, affinity) as client:
                prepared = await parts.prepare(generate, client)
                events = client.generate(replace(prepared, owner=record.owner))
                try:
                    async for event in events:
                        progress.note(event)
                        yield await parts.pass_on(event)
                finally:
                    await close_iterator(events)
    finally:
        await parts.leave()


def _acquire(
    context: PluginContext, model_id: str, options: ModelOptions, affinity: int | None
) -> AbstractAsyncContextManager[ModelClient]:
    return context.models.acquire(
        model_id, Mode.GENERATE, autoload=options.autoload, ttl_seconds=options.ttl_seconds, affinity=affinity
    )


@dataclass(slots=True)
class _Progress:
    """Notes in a request's record how far its generation comes, and how it ends."""

    record: RequestRecord
    prompt: Prompt
    started: Started | None = None
    n_written: int = 0
    complete: bool = False

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, LocalLLMError):
            if isinstance(error, ContextLengthExceededError) and error.param is None:
                error.param = "messages" if isinstance(self.prompt, ChatPrompt) else "prompt"
            self.record.finish = error.code
        elif isinstance(error, GeneratorExit | asyncio.CancelledError) and not self.complete:
            self.record.finish = "cancelled"  # a consumer may well stop after the last event
        if self.started is not None and not self.complete:
            self.record.add_unfinished(self.started.prompt_tokens, self.n_written)

    def note(self, event: GenerateEvent) -> None:
        """Go on with one event."""
        record = self.record
        match event:
            case Started():
                self.started = event
            case Chunk(tokens=tokens) | CallDelta(tokens=tokens):
                self.n_written += tokens
                if tokens and record.first_token_at is None:
                    record.first_token_at = record.clock()
            case ChoiceFinished(reason=reason) if record.finish != "length":
                record.finish = reason  # of several choices, one that was cut short is worth telling
            case Finished(usage=usage, timings=timings):
                self.complete = True
                record.add_usage(usage, timings)
