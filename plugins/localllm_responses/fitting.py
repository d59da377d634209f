"""A generation whose prompt loses its oldest messages until it fits the model's context."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Final, cast

from starlette.requests import Request

from localllm import (
    ChatPrompt,
    ContextLengthExceededError,
    GenerateEvent,
    GenerateRequest,
    PluginContext,
    Started,
    stream_generation,
)
from localllm.openai.responses import drop_oldest

_ROOM_FOR_ANSWER: Final = 0.75  # of the context, so that dropping isn't needed again with each turn


async def generate_fitting(
    request: Request, context: PluginContext, model: str, generate: GenerateRequest, *, may_cut: bool
) -> AsyncGenerator[GenerateEvent, None]:
    """Yield the events of ``stream_generation``. Where a chat's prompt is too long and ``may_cut``, it is shortened.

    A warning then says how many messages were left out. Raises what ``stream_generation`` raises.
    """
    n_dropped = 0
    while True:
        try:
            async with aclosing(stream_generation(request, context, model, generate)) as events:
                async for event in events:
                    yield _noting(event, n_dropped) if n_dropped and isinstance(event, Started) else event
            return
        except ContextLengthExceededError as error:
            prompt = cast(ChatPrompt, generate.prompt)
            share = _ROOM_FOR_ANSWER * error.detail["n_ctx"] / max(1, error.detail["n_prompt_tokens"])
            left = drop_oldest(prompt.messages, keep_share=min(share, 1.0)) if may_cut else None
            if left is None:
                error.param = "input"
                raise
            n_dropped += len(prompt.messages) - len(left)
            generate = replace(generate, prompt=replace(prompt, messages=left))


def _noting(event: Started, n_dropped: int) -> Started:
    told = f"The oldest {n_dropped} messages were left out, because the conversation is longer than the context."
    return replace(event, warnings=(*event.warnings, told))
