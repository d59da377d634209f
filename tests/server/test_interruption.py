"""Ending a block from outside with an error of one's choice, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from localllm.server.interruption import Interruption
from tests.server.kit import run


class FirstError(Exception):
    pass


class SecondError(Exception):
    pass


def test_the_block_ends_with_the_given_error_after_its_cleanup() -> None:
    async def scenario() -> list[str]:
        steps: list[str] = []
        with pytest.raises(FirstError), Interruption() as interruption:
            asyncio.get_running_loop().call_soon(interruption.interrupt, FirstError())
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                steps.append("cleaned up")
        await asyncio.sleep(0)  # the task is not cancelled any more
        steps.append("went on")
        return steps

    assert run(scenario()) == ["cleaned up", "went on"]


def test_the_first_error_counts_and_none_does_afterwards() -> None:
    async def scenario() -> None:
        with pytest.raises(FirstError), Interruption() as interruption:
            interruption.interrupt(FirstError())
            interruption.interrupt(SecondError())
            await asyncio.Event().wait()
        interruption.interrupt(SecondError())
        await asyncio.sleep(0)

    run(scenario())


def test_a_foreign_cancellation_passes_through() -> None:
    async def scenario() -> None:
        async def work() -> None:
            with Interruption():
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())


def test_both_at_once_stay_a_cancellation() -> None:
    async def scenario() -> None:
        running: list[Interruption] = []

        async def work() -> None:
            with Interruption() as interruption:
                running.append(interruption)
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        running[0].interrupt(FirstError())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario())


@pytest.mark.parametrize(("which", "error"), [(0, FirstError), (1, SecondError)])
def test_nested_blocks(which: int, error: type[Exception]) -> None:
    async def scenario() -> None:
        with pytest.raises(error), Interruption() as outer, Interruption() as inner:
            asyncio.get_running_loop().call_soon((outer, inner)[which].interrupt, error())
            await asyncio.Event().wait()

    run(scenario())
