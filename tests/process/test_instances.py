"""Two worker processes behind one name: requests spread over them, and one that dies takes nobody else along."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.errors import UnavailableError, WorkerCrashedError
from localllm.contract.events import ModelLoaded, ModelUnloaded, WorkerDied
from localllm.contract.model import Mode
from localllm.host.client import WorkerClient
from localllm.host.registry import ModelRegistry
from localllm.host.states import ModelState, ModelStatus
from localllm.host.supervisor import BreakerPolicy
from tests.process.conftest import Run
from tests.process.harness import (
    PATIENCE_SECONDS,
    Events,
    Models,
    ask,
    exists,
    finished,
    first_chunk,
    read_all,
    running_registry,
)

pytestmark = pytest.mark.process

GENERATE = Mode.GENERATE
SLOW = {"parallel": 1, "step_delay_seconds": 0.02}


def twins(**bounds: int) -> Models:
    models = Models(demo=SLOW)
    models.change(replace(models.resolve("demo"), **bounds))
    return models


def instances(registry: ModelRegistry) -> list[ModelStatus]:
    (status,) = registry.status()
    return list(status.instances)


def pids(registry: ModelRegistry) -> list[int]:
    return [one.worker_pid for one in instances(registry) if one.worker_pid is not None]


@asynccontextmanager
async def kept_up(registry: ModelRegistry) -> Any:
    running = asyncio.create_task(registry.run())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await registry.preload([])
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})


async def in_time(work: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await work


def test_requests_spread_over_two_workers_and_the_death_of_one_is_no_business_of_the_other(
    run: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        events = Events()
        async with running_registry(twins(max_instances=2), tmp_path, emit=events) as registry:
            async with registry.acquire("demo", GENERATE) as first, registry.acquire("demo", GENERATE) as second:
                assert first is second, "nobody waits for the second worker to be loaded"
                await events.wait_for(ModelLoaded, 2)
            async with registry.acquire("demo", GENERATE) as first, registry.acquire("demo", GENERATE) as second:
                assert isinstance(first, WorkerClient)
                assert isinstance(second, WorkerClient)
                assert pids(registry) == [first.pid, second.pid]
                async with aclosing(first.generate(ask(max_tokens=400))) as stream:  # type: ignore[type-var]
                    await in_time(first_chunk(stream))
                    os.kill(first.pid, signal.SIGKILL)
                    with pytest.raises(WorkerCrashedError):
                        async for _ in stream:
                            continue
                assert finished(await read_all(second))
                assert [one.state for one in instances(registry)] == [ModelState.FAILED, ModelState.READY]
                (status,) = registry.status()
                assert (status.state, status.worker_pid) == (ModelState.READY, second.pid)
                async with registry.acquire("demo", GENERATE) as third:
                    assert third is second
                    await events.wait_for(ModelLoaded, 3)
                    assert len(pids(registry)) == 2, "it had to wait, and so another one was loaded"
            alive = pids(registry)
            assert await registry.unload("demo")
            assert not any(map(exists, alive))
            assert [len(events.of(kind)) for kind in (ModelLoaded, ModelUnloaded, WorkerDied)] == [3, 2, 1]

    run(scenario())


def test_a_standing_worker_that_dies_is_replaced_without_being_asked_for(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        events = Events()
        models = twins(min_instances=2, max_instances=2)
        async with running_registry(models, tmp_path, emit=events) as registry, kept_up(registry):
            before = pids(registry)
            assert len(before) == 2
            os.kill(before[1], signal.SIGKILL)
            await events.wait_for(ModelLoaded, 3)
            assert pids(registry)[0] == before[0]
            assert len(set(pids(registry)) - set(before)) == 1

    run(scenario())


def test_deaths_of_all_instances_count_together(run: Run, tmp_path: Path) -> None:
    """Once the breaker is open none is loaded any more; what runs goes on."""

    async def scenario() -> None:
        events = Events()
        models = twins(min_instances=2, max_instances=2)
        policy = BreakerPolicy(failures=1, cool_down_seconds=600.0)
        async with running_registry(models, tmp_path, emit=events, breaker=policy) as registry, kept_up(registry):
            first, second = pids(registry)
            os.kill(first, signal.SIGKILL)
            await events.wait_for(WorkerDied)
            async with registry.acquire("demo", GENERATE) as client:
                assert finished(await read_all(client))
                assert pids(registry) == [second]
            os.kill(second, signal.SIGKILL)
            await events.wait_for(WorkerDied, 2)
            with pytest.raises(UnavailableError, match="failed 1 times in a row"):
                await in_time(registry.load("demo", GENERATE))
            assert len(events.of(ModelLoaded)) == 2

    run(scenario())
