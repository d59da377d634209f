"""How a prompt is made of input that a model may refuse: shortened until it fits, and the fault told by its name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Final, cast

from starlette.requests import Request

from localllm import (
    ChatPrompt,
    ContextLengthExceededError,
    GenerateEvent,
    GenerateRequest,
    LocalLLMError,
    PluginContext,
    Started,
    stream_generation,
)
from localllm.openai.responses import drop_oldest

_ROOM_FOR_ANSWER: Final = 0.75  # of the context, so that dropping isn't needed again with each turn


@contextmanager
def blaming_input() -> Iterator[None]:
    """Give an error that blames the messages, which no request to these endpoints has, the name of where they were."""
    try:
        yield
    except LocalLLMError as error:
        if error.param == "messages":
            error.param = "input"
        raise


async def generate_fitting(
    request: Request, context: PluginContext, model: str, generate: GenerateRequest, *, may_cut: bool
) -> AsyncGenerator[GenerateEvent, None]:
    """Yield the events of ``stream_generation``. Where a chat's prompt is too long and ``may_cut``, it is shortened.

    A warning then says how many messages were left out. Raises what ``stream_generation`` raises.
    """
    n_dropped = 0
    while True:
        try:
            with blaming_input():
                async with aclosing(stream_generation(request, context, model, generate)) as events:
                    async for event in events:
                        yield _noting(event, n_dropped) if n_dropped and isinstance(event, Started) else event
            return
        except ContextLengthExceededError as error:
            prompt = cast(ChatPrompt, generate.prompt)
            share = _ROOM_FOR_ANSWER * error.detail["n_ctx"] / max(1, error.detail["n_prompt_tokens"])
            left = drop_oldest(prompt.messages, keep_share=min(share, 1.0)) if may_cut else None
            if left is None:
                raise
            n_dropped += len(prompt.messages) - len(left)
            generate = replace(generate, prompt=replace(prompt, messages=left))


def _noting(event: Started, n_dropped: int) -> Started:
    told = f"The oldest {n_dropped} messages were left out, because the conversation is longer than the context."
    return replace(event, warnings=(*event.warnings, told))
