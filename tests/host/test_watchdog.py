"""Silence is noticed once; signs of life, an end of debts and our own slowness are no silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from localllm.host.watchdog import Watchdog

PATIENCE_SECONDS = 20.0


def bark(timeout_seconds: float) -> tuple[Watchdog, asyncio.Event, list[float]]:
    barked, times = asyncio.Event(), []

    def on_silence() -> None:
        times.append(time.monotonic())
        barked.set()

    return Watchdog(timeout_seconds, on_silence), barked, times


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_silence_is_reported_once_and_not_before_its_time() -> None:
    async def scenario() -> None:
        watchdog, barked, times = bark(0.1)
        began_at = time.monotonic()
        watchdog.start()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await barked.wait()
        assert times[0] - began_at >= 0.1
        await asyncio.sleep(0.3)
        assert len(times) == 1

    play(scenario)


def test_nothing_is_reported_when_nothing_is_owed() -> None:
    async def scenario() -> None:
        watchdog, barked, _ = bark(0.05)
        watchdog.start()
        watchdog.stop()
        await asyncio.sleep(0.2)
        assert not barked.is_set()
        watchdog.start()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await barked.wait()

    play(scenario)


def test_a_server_that_was_stopped_itself_reads_its_pipe_before_it_judges() -> None:
    async def scenario() -> None:
        watchdog, barked, _ = bark(0.2)
        watchdog.start()
        # What arrived while we stood still is read after the timer has gone off, in the same turn of the loop.
        loop = asyncio.get_running_loop()
        loop.call_later(0.25, watchdog.reset)
        loop.call_soon(time.sleep, 0.3)
        await asyncio.sleep(0)
        await asyncio.sleep(0.06)  # longer than the second look takes to come, shorter than a new silence
        watchdog.stop()
        assert not barked.is_set()

    play(scenario)
