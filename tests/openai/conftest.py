"""Scripted generations and the reply that they are worded in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from localllm.contract.generation import GenerateEvent
from localllm.openai import Reply


class Script:
    """Plays events (an exception is raised) and notes whether it was closed before its end."""

    def __init__(self, *events: GenerateEvent | Exception) -> None:
        self.events = events
        self.played = 0
        self.closed_early = False

    async def play(self) -> AsyncGenerator[GenerateEvent, None]:
        try:
            for event in self.events:
                await asyncio.sleep(0)
                if isinstance(event, Exception):
                    raise event
                self.played += 1
                yield event
        except GeneratorExit:
            self.closed_early = True
            raise


@pytest.fixture
def script() -> type[Script]:
    return Script


@pytest.fixture
def reply() -> Reply:
    return Reply("chatcmpl-1", 1_700_000_000, "demo", "fp_1")


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    return asyncio.run


@pytest.fixture
def gather() -> Callable[[AsyncGenerator[Any, None]], list[Any]]:
    async def drain(events: AsyncGenerator[Any, None]) -> list[Any]:
        return [event async for event in events]

    return lambda events: asyncio.run(drain(events))
