"""Has the model itself sum up what no longer fits its context."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, cast

from localllm import (
    AdapterScale,
    ChatPrompt,
    Chunk,
    Finished,
    GenerateRequest,
    ModelClient,
    SamplingParams,
    TokenizeRequest,
    Usage,
)

from .history import Message
from .window import read_bytes

HEADING: Final = "Summary of the conversation so far:"

_TASK: Final = (
    "Sum up the conversation that follows, for the assistant who will go on with it. Keep names, numbers, facts, "
    "decisions, and what was asked and is still open. Write only the summary, in at most {words} words, in the "
    "language of the conversation."
)
_MAX_TOKENS: Final = 512
_SHARE: Final = 8  # of the context, that a summary may take: one in so many


@dataclass(frozen=True, slots=True)
class Summary:
    """The text, and what it took to write it."""

    text: str
    usage: Usage


async def sum_up(
    client: ModelClient, before: str, messages: Sequence[Message], adapters: tuple[AdapterScale, ...] | None
) -> Summary:
    """Return a summary of ``messages`` and of what was summed up ``before``.

    Of what doesn't fit the context together, the oldest messages are left aside, and the last one is cut. Raises what
    the client raises.
    """
    n_tokens = max(16, min(_MAX_TOKENS, client.info.context_length // _SHARE))
    lines = _last_lines(messages, read_bytes(client.info.context_length))
    prompt = _prompt(before, lines, n_tokens)
    while any(lines) and await count_tokens(client, prompt) > client.info.context_length - n_tokens:
        lines = lines[(len(lines) + 1) // 2 :] if len(lines) > 1 else [lines[0][: len(lines[0]) // 2]]
        prompt = _prompt(before, lines, n_tokens)
    sampling = SamplingParams(temperature=0.0, max_tokens=n_tokens)
    request = GenerateRequest(prompt, sampling, cache_prompt=False, adapters=adapters)
    return await _collect(client, request)


async def count_tokens(client: ModelClient, prompt: ChatPrompt) -> int:
    """Return how many tokens a conversation has as the model's template renders it."""
    return len((await client.convert(TokenizeRequest(prompt))).tokens)


def _prompt(before: str, lines: Sequence[str], n_tokens: int) -> ChatPrompt:
    task = _TASK.format(words=n_tokens // 2)
    parts = [task, *([f"{HEADING}\n{before}"] if before else []), *lines]
    return ChatPrompt(({"role": "user", "content": "\n\n".join(parts)},), {"enable_thinking": False})


def _last_lines(messages: Sequence[Message], max_chars: int) -> list[str]:
    """Return the last messages as lines, at least one, of at most so many characters: more can't fit."""
    lines: list[str] = []
    for message in reversed(messages):
        line = _line(message)[:max_chars]
        max_chars -= len(line)
        if lines and max_chars <= 0:
            break
        lines.append(line)
    return lines[::-1]


def _line(message: Message) -> str:
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    calls = [f"calls {function['name']} {function['arguments']}" for function in functions]
    return " ".join([f"{message['role']}:", message["content"], *calls])


async def _collect(client: ModelClient, request: GenerateRequest) -> Summary:
    texts: list[str] = []
    usage = Usage(0, 0)
    # A client's iterator is an async generator in practice, and has to be closed where it was opened.
    async with aclosing(cast("Any", client.generate(request))) as events:
        async for event in events:
            match event:
                case Chunk(region="content"):
                    texts.append(event.text)
                case Finished():
                    usage = event.usage
    return Summary("".join(texts).strip(), usage)
