"""Conversations that go on outlive their worker: let go, replaced, or killed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.contract.errors import LocalLLMError
from localllm.contract.generation import Chunk
from localllm.contract.model import Mode
from localllm.host.client import WorkerClient
from localllm.host.registry import ModelRegistry
from tests.process.conftest import Run
from tests.process.harness import Models, ask, finished, read_all, running_registry

pytestmark = pytest.mark.process

SAVES = {"saved_ram_bytes": 10_000, "saved_disk_bytes": 1_000_000, "parallel": 1, "n_seq_max": 1}
FIRST = "the first conversation, of which there is a lot to be evaluated " * 2
SECOND = "another one that takes its place " * 3


async def say(registry: ModelRegistry, text: str, *, keep: bool = True) -> tuple[str, int]:
    """The conversation after the answer, and how much was cached; the first token stands before all text."""
    async with registry.acquire("demo", Mode.GENERATE) as client:
        events = await read_all(client, replace(ask(text, temperature=0.0), keep=keep))
    answer = "".join(event.text for event in events if isinstance(event, Chunk))
    return text + answer, finished(events).usage.cached_tokens


def states(folder: Path) -> list[Path]:
    return sorted((folder / "conversations").iterdir())


def test_conversations_are_there_after_a_model_was_unloaded(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_registry(Models(demo=SAVES), tmp_path) as registry:
            first, _ = await say(registry, FIRST)
            second, _ = await say(registry, SECOND)
            third, _ = await say(registry, "this one is not kept, and " * 5, keep=False)
            await registry.unload("demo")
            assert len(states(tmp_path)) == 2
            assert (await say(registry, first + "x"))[1] == len(first)
            assert (await say(registry, second + "x"))[1] == len(second)
            assert (await say(registry, third + "x"))[1] == 1, "the token that stands before all text"

    run(scenario())


def test_conversations_are_there_after_a_restart_of_the_server(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        history = FIRST
        for turn in range(3):
            async with running_registry(Models(demo=SAVES), tmp_path) as registry:
                before = len(history)
                history, cached = await say(registry, history + "more")
                assert cached == (before if turn else 0)
                await registry.drain(30)
            assert len(states(tmp_path)) == 1, "one that went on replaces what it was"

    run(scenario())


def test_a_killed_worker_costs_time_only(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_registry(Models(demo=SAVES), tmp_path) as registry:
            history, _ = await say(registry, FIRST)
            await registry.unload("demo")
            longer, _ = await say(registry, history + "more")
            async with registry.acquire("demo", Mode.GENERATE) as client:
                assert isinstance(client, WorkerClient)
                os.kill(client.pid, signal.SIGKILL)
                with pytest.raises(LocalLLMError):
                    await read_all(client)
            assert (await say(registry, longer + "x"))[1] == len(history), "as far as it was written down"

    run(scenario())


def test_requests_that_are_cut_off_leave_what_they_got_to(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_registry(Models(demo=SAVES), tmp_path) as registry:
            async with registry.acquire("demo", Mode.GENERATE) as client:
                request = replace(ask(FIRST, temperature=0.0, max_tokens=300), keep=True)
                async for event in client.generate(request):
                    if isinstance(event, Chunk):
                        break
                await client.close()
            [file] = states(tmp_path)
            assert file.stat().st_size > 12 * len(FIRST)

    run(scenario())


def test_nothing_is_written_where_nothing_may_be(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        quiet = {**SAVES, "saved_disk_bytes": 0}
        async with running_registry(Models(demo=quiet), tmp_path) as registry:
            first, _ = await say(registry, FIRST)
            await say(registry, SECOND)
            assert (await say(registry, first + "x"))[1] == len(first)
        assert not (tmp_path / "conversations").exists()

    run(scenario())
