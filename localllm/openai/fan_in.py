"""Runs several generations at the same time and merges their events into one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from localllm.contract.generation import (
    CallDelta,
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateEvent,
    PromptLogprobs,
    Started,
    Timings,
    Usage,
)
from localllm.openai.answers import Events, cut_short

_BUFFERED_EVENTS: Final = 64

_Item = tuple[int, GenerateEvent] | Exception


async def merge_generations(generations: Sequence[Events], *, n: int) -> AsyncGenerator[GenerateEvent, None]:
    """Yield the events of all generations as those of one, whose choice ``i * n + k`` is choice k of generation i.

    Prompts are counted likewise. :class:`Started` comes once all have started, before anything else; the token counts
    are summed, a warning is given once, and of the times the longest is given, because they overlap. If one generation
    fails, the others are cancelled and its error is raised. Closing the merged iterator cancels all.
    """
    if len(generations) == 1:
        async with aclosing(generations[0]) as only:
            async for event in only:
                yield event
        return
    merged: asyncio.Queue[_Item] = asyncio.Queue(_BUFFERED_EVENTS)
    pumps = [asyncio.create_task(_pump(index, events, merged)) for index, events in enumerate(generations)]
    try:
        async with aclosing(_in_order(merged, len(generations), n)) as ordered:
            async for event in ordered:
                yield event
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(index: int, events: Events, merged: asyncio.Queue[_Item]) -> None:
    """Move one generation's events into the queue; its iterator is driven and closed in this task only."""
    try:
        async with aclosing(events):
            async for event in events:
                await merged.put((index, event))
                if isinstance(event, Finished):
                    return
        raise cut_short()
    except Exception as error:  # noqa: BLE001 - raised again by the reader, in the request's own task
        await merged.put(error)


async def _in_order(merged: asyncio.Queue[_Item], n_generations: int, n: int) -> AsyncGenerator[GenerateEvent, None]:
    started: list[Started] = []
    held: list[GenerateEvent] = []
    finished: list[Finished] = []
    while len(finished) < n_generations:
        item = await merged.get()
        if isinstance(item, Exception):
            raise item
        index, event = item
        match event:
            case Started():
                started.append(event)
                if len(started) == n_generations:
                    yield _all_started(started)
                    for early in held:
                        yield early
            case Finished():
                finished.append(event)
            case _:
                renumbered = _renumber(event, index, n)
                if len(started) == n_generations:
                    yield renumbered
                else:
                    held.append(renumbered)
    yield _total(finished)


def _renumber(event: GenerateEvent, index: int, n: int) -> GenerateEvent:
    match event:
        case PromptLogprobs():
            return replace(event, prompt=index)
        case Chunk() | CallDelta() | ChoiceFinished():
            return replace(event, choice=index * n + event.choice)
    return event


def _all_started(started: Sequence[Started]) -> Started:
    warnings = dict.fromkeys(warning for one in started for warning in one.warnings)
    return Started(sum(one.prompt_tokens for one in started), tuple(warnings))


def _total(finished: Sequence[Finished]) -> Finished:
    timings = [one.timings for one in finished]
    return Finished(
        sum((one.usage for one in finished), Usage(0, 0)),
        Timings(
            queue_ms=max(timing.queue_ms for timing in timings),
            prompt_ms=max(timing.prompt_ms for timing in timings),
            predicted_ms=max(timing.predicted_ms for timing in timings),
        ),
    )
