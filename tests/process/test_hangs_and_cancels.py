"""A worker that is silent is killed, a client that leaves frees its place, and an idle worker sleeps."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.backend import BackendSpec
from localllm.contract.errors import WorkerCrashedError
from localllm.contract.events import WorkerDied
from localllm.contract.generation import ChatPrompt, GenerateRequest, SamplingParams, Started
from localllm.contract.model import Mode
from localllm.host.client import WorkerClient
from tests.process.conftest import Run
from tests.process.harness import (
    PATIENCE_SECONDS,
    Events,
    Models,
    ask,
    finished,
    first_chunk,
    read_all,
    running_registry,
    text_of,
)

pytestmark = pytest.mark.process

GENERATE = Mode.GENERATE
SELF_TEST_STEPS = 3
ENDLESS: dict[str, Any] = {"max_tokens": None, "ignore_eos": True}


@pytest.mark.parametrize("holds_gil", [False, True], ids=["waiting", "holding the GIL"])
def test_a_worker_that_hangs_in_a_step_is_killed_and_replaced(run: Run, tmp_path: Path, holds_gil: bool) -> None:
    settings = {"hang_after_steps": SELF_TEST_STEPS + 2, "hang_holds_gil": holds_gil}

    async def scenario() -> None:
        events = Events()
        async with running_registry(Models(demo=settings), tmp_path, emit=events, hang_timeout_seconds=0.5) as registry:
            for _ in range(2):
                async with registry.acquire("demo", GENERATE) as client:
                    with pytest.raises(WorkerCrashedError, match=r"silent for 0\.5 seconds") as caught:
                        await read_all(client)
                    assert caught.value.detail == {"signal": "SIGKILL", "cause": "hang"}
            assert len(events.of(WorkerDied)) == 2

    run(scenario())


def test_a_stopped_worker_that_owes_an_answer_is_killed(run_both: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running_registry(Models(demo={"step_delay_seconds": 0.01}), tmp_path, hang_timeout_seconds=2) as registry,
            registry.acquire("demo", GENERATE) as client,
        ):
            stream = client.generate(ask(max_tokens=400))
            await first_chunk(stream)
            pid = registry.status()[0].worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(WorkerCrashedError, match="silent"):
                async for _ in stream:
                    continue

    run_both(scenario())


def test_a_stopped_worker_that_goes_on_in_time_loses_nothing(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running_registry(Models(demo={"step_delay_seconds": 0.01}), tmp_path, hang_timeout_seconds=30) as registry,
            registry.acquire("demo", GENERATE) as client,
        ):
            stream = client.generate(ask(max_tokens=50))
            await first_chunk(stream)
            pid = registry.status()[0].worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)
            assert finished([event async for event in stream]).usage.completion_tokens == 50

    run(scenario())


def test_a_stopped_idle_worker_is_unloaded_by_force(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_registry(Models(demo={}), tmp_path, stop_seconds=0.2) as registry:
            async with registry.acquire("demo", GENERATE) as client:
                await read_all(client)
            pid = registry.status()[0].worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            await registry.unload("demo")

    run(scenario())


def test_a_silent_worker_that_owes_nothing_is_left_alone(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        events = Events()
        async with (
            running_registry(Models(demo={}), tmp_path, emit=events, hang_timeout_seconds=0.5) as registry,
            registry.acquire("demo", GENERATE) as client,
        ):
            await read_all(client)
            await asyncio.sleep(1)  # nothing happens: that is the point
            assert events.of(WorkerDied) == []
            await read_all(client)

    run(scenario())


def test_a_reader_that_leaves_frees_its_sequence_for_the_next(run_both: Run, tmp_path: Path) -> None:
    settings = {"parallel": 1, "step_delay_seconds": 0.005, "context_length": 4000}

    async def scenario() -> None:
        async with (
            running_registry(Models(demo=settings), tmp_path) as registry,
            registry.acquire("demo", GENERATE) as client,
        ):
            assert isinstance(client, WorkerClient)
            closed = client.generate(ask(**ENDLESS))
            await first_chunk(closed)
            await closed.aclose()
            assert client.open_requests == 0
            await read_all(client)  # there is one slot: this runs only where the endless one has gone

            async def endless() -> None:
                async for _ in client.generate(ask(**ENDLESS)):
                    continue

            cancelled = asyncio.create_task(endless())
            await asyncio.wait({cancelled}, timeout=0.1)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            await read_all(client)

            queued = [client.generate(ask(**ENDLESS)) for _ in range(5)]
            await first_chunk(queued[0])
            waiting = [asyncio.ensure_future(anext(stream)) for stream in queued[1:]]
            await asyncio.wait(waiting, timeout=0.1)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            for stream in queued:
                await stream.aclose()
            await read_all(client)
            assert client.open_requests == 0

    run_both(scenario())


def test_a_storm_of_cancels_changes_no_other_answer(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running_registry(Models(demo={"context_length": 2000}), tmp_path) as registry,
            registry.acquire("demo", GENERATE) as client,
        ):
            assert isinstance(client, WorkerClient)
            golden = await read_all(client, ask("golden", max_tokens=200))

            async def leave(number: int) -> None:
                stream = client.generate(ask(f"storm {number}", **ENDLESS))
                async for _ in stream:
                    if number % 3:
                        break
                await stream.aclose()

            storm = [asyncio.create_task(leave(number)) for number in range(1, 60)]
            again = await read_all(client, ask("golden", max_tokens=200))
            for task in storm:
                task.cancel()
            await asyncio.gather(*storm, return_exceptions=True)
            assert text_of(again) == text_of(golden)
            assert client.open_requests == 0
            assert finished(await read_all(client)).usage.completion_tokens == 8

    run(scenario())


def test_a_template_that_takes_long_holds_up_neither_streams_nor_cancels(run: Run, tmp_path: Path) -> None:
    gates = [tmp_path / "first", tmp_path / "second"]
    for gate in gates:
        os.mkfifo(gate)
    backend = BackendSpec("fake", frozenset({GENERATE}), factory="blocking_template:load")
    search_path = {"PYTHONPATH": str(Path(__file__).parent)}

    def gated(gate: Path) -> GenerateRequest:
        return GenerateRequest(ChatPrompt((), {"gate": str(gate)}), SamplingParams(max_tokens=4))

    async def scenario() -> None:
        async with (
            running_registry(
                Models(demo={"context_length": 4000}), tmp_path, backend=backend, extra_environment=search_path
            ) as registry,
            registry.acquire("demo", GENERATE) as client,
        ):
            running = client.generate(ask(**ENDLESS))
            await first_chunk(running)
            stuck = asyncio.create_task(read_all(client, gated(gates[0])))
            behind = asyncio.create_task(read_all(client, gated(gates[1])))
            for _ in range(5):
                await first_chunk(running)
            assert not stuck.done()
            assert not behind.done()
            await running.aclose()
            stuck.cancel()
            await asyncio.wait({stuck})
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.to_thread(gates[0].write_text, "its reader has gone")
                await asyncio.to_thread(gates[1].write_text, "rendered")
                answer = await behind
            assert isinstance(answer[0], Started)
            assert answer[0].prompt_tokens == len("rendered")

    run(scenario())


def test_an_idle_worker_sleeps(run: Run, tmp_path: Path) -> None:
    def switches(pid: int) -> int:
        total = 0
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            total += int(lines["voluntary_ctxt_switches"]) + int(lines["nonvoluntary_ctxt_switches"])
        return total

    async def scenario() -> None:
        async with (
            running_registry(Models(demo={}), tmp_path) as registry,
            registry.acquire("demo", GENERATE) as client,
        ):
            await read_all(client)
            pid = registry.status()[0].worker_pid
            assert pid is not None
            counts = [-1, switches(pid)]
            while counts[-1] != counts[-2]:  # its threads go to sleep
                await asyncio.sleep(0.5)
                counts.append(switches(pid))
                assert len(counts) < 20, "something in it polls"

    run(scenario())
