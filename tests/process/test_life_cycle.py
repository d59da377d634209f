"""Models in real worker processes: loaded once, asked by many, let go with their memory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.contract.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    ModelBusyError,
    OverloadedError,
    UnavailableError,
)
from localllm.contract.events import ModelLoaded, ModelUnloaded
from localllm.contract.generation import (
    ChatPrompt,
    ChoiceFinished,
    GenerateRequest,
    SamplingParams,
    Started,
    TokenPrompt,
)
from localllm.contract.model import Mode
from localllm.host.states import ModelState
from tests.process.conftest import Run
from tests.process.harness import (
    Events,
    Models,
    ask,
    exists,
    fake_backend,
    finished,
    first_chunk,
    read_all,
    running_registry,
    text_of,
)
from tests.processes import children

pytestmark = pytest.mark.process

GENERATE = Mode.GENERATE


def test_a_model_is_loaded_on_first_use_answers_and_is_gone_after_close(run_both: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        events = Events()
        echo = fake_backend("load_echo")
        async with running_registry(Models(demo={}), tmp_path, backend=echo, emit=events) as registry:
            assert registry.status() == []
            async with registry.acquire(None, GENERATE) as client:
                assert client.info.description == "fake"
                answer = await read_all(client, ask("to be or not", max_tokens=100, n=2))
            assert isinstance(answer[0], Started)
            assert text_of(answer, 0) == text_of(answer, 1) == "to be or not"
            assert {event.reason for event in answer if isinstance(event, ChoiceFinished)} == {"stop"}
            assert finished(answer).usage.prompt_tokens == answer[0].prompt_tokens
            (status,) = registry.status()
            assert (status.state, status.in_flight) == (ModelState.READY, 0)
            assert status.prefilled_tokens_total == answer[0].prompt_tokens, "the choices share one prefill"
            pid = status.worker_pid
            assert pid is not None
            assert exists(pid)
        assert not exists(pid)
        assert [type(event) for event in events.seen] == [ModelLoaded, ModelUnloaded]

    run_both(scenario())


def test_many_first_requests_start_one_worker(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        events = Events()
        models = Models(demo={"load_delay_seconds": 0.2})
        async with running_registry(models, tmp_path, emit=events) as registry:

            async def request(number: int) -> str:
                async with registry.acquire("demo", GENERATE) as client:
                    return text_of(await read_all(client, ask(f"question {number}", temperature=0.0)))

            texts = await asyncio.gather(*map(request, range(12)))
            assert len(set(texts)) == 12
            assert len(events.of(ModelLoaded)) == 1
            assert [await request(number) for number in range(12)] == texts, "batched answers equal lone ones"

    run(scenario())


def test_the_workers_errors_arrive_as_their_types_and_leave_the_worker_alone(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running_registry(Models(demo={"context_length": 32}), tmp_path) as registry,
            registry.acquire("demo", GENERATE) as client,
        ):
            with pytest.raises(ContextLengthExceededError) as too_long:
                await read_all(client, GenerateRequest(TokenPrompt((1,) * 40)))
            assert too_long.value.detail == {"n_prompt_tokens": 40, "n_ctx": 32}
            for wrong in (TokenPrompt((1, 99_999)), TokenPrompt(())):
                with pytest.raises(InvalidRequestError):
                    await read_all(client, GenerateRequest(wrong))
            assert finished(await read_all(client)).usage.completion_tokens == 8
            assert registry.status()[0].prefilled_tokens_total == finished(await read_all(client)).usage.prompt_tokens

    run(scenario())


def test_prints_of_native_code_never_reach_the_frames(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        noisy = {"noise": "\x00\x00\x00\x05hello llama_model_loader: 100 %\n"}
        async with (
            running_registry(Models(demo=noisy), tmp_path) as registry,
            registry.acquire("demo", GENERATE) as client,
        ):
            assert finished(await read_all(client)).usage.completion_tokens == 8

    run(scenario())


def test_unload_waits_for_the_stream_and_gives_the_process_back(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_registry(Models(demo={"step_delay_seconds": 0.01}), tmp_path) as registry:
            async with registry.acquire("demo", GENERATE) as client:
                stream = client.generate(ask(max_tokens=30))
                await first_chunk(stream)
                pid = registry.status()[0].worker_pid
                assert pid is not None
                unloading = asyncio.create_task(registry.unload("demo"))
                rest = [event async for event in stream]
                assert finished(rest).usage.completion_tokens == 30
                assert exists(pid)
            await unloading
            assert not exists(pid)
            assert registry.status()[0].state is ModelState.UNLOADED

    run(scenario())


def test_a_forced_unload_ends_open_streams_with_a_typed_error_and_the_next_request_reloads(
    run_both: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        slow = {"step_delay_seconds": 0.02, "context_length": 4000}
        async with running_registry(Models(demo=slow), tmp_path) as registry:
            async with registry.acquire("demo", GENERATE) as client:
                stream = client.generate(ask(max_tokens=None, ignore_eos=True))
                await first_chunk(stream)
                pid = registry.status()[0].worker_pid
                assert pid is not None
                with pytest.raises(ModelBusyError, match="1 requests in flight"):
                    await registry.unload("demo", deadline_seconds=0.05)
                await first_chunk(stream)  # it goes on
                assert await registry.unload("demo", deadline_seconds=0.0, force=True)
                assert not exists(pid)
                with pytest.raises(UnavailableError, match="shutting down"):
                    async for _ in stream:
                        continue
            async with registry.acquire("demo", GENERATE) as client:
                await read_all(client)
            assert registry.status()[0].in_flight == 0

    run_both(scenario())


def test_a_model_makes_room_for_another_and_its_process_is_gone_before_the_other_loads(
    run: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        events = Events()
        async with running_registry(Models(one={}, two={}), tmp_path, emit=events, max_loaded=1) as registry:
            async with registry.acquire("one", GENERATE) as client:
                await read_all(client)
                pid = registry.status()[0].worker_pid
                assert pid is not None
            async with registry.acquire("two", GENERATE) as client:
                assert not exists(pid)
                await read_all(client)
            assert [type(event) for event in events.seen] == [ModelLoaded, ModelUnloaded, ModelLoaded]
            assert events.of(ModelUnloaded) == [ModelUnloaded("one", "evicted")]

    run(scenario())


@pytest.fixture
def busy_cores() -> Iterator[None]:
    """Keep all cores busy, so that what is started, or killed, takes its time."""
    cores = min(4, len(os.sched_getaffinity(0)))
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.usefixtures("busy_cores")
def test_a_load_that_is_cut_off_at_any_moment_leaves_no_process(run_both: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        before = children()
        async with running_registry(Models(demo={}), tmp_path) as registry:
            for turn in range(12):
                loading = asyncio.create_task(registry.load("demo", GENERATE))
                for _ in range(turn % 6):
                    await asyncio.sleep(0)
                await registry.unload("demo", deadline_seconds=0, force=True)
                assert children() <= before
                await asyncio.wait({loading})
                assert isinstance(loading.exception(), UnavailableError)
                assert not registry.room.held

    run_both(scenario())


def test_shutdown_ends_open_streams_at_its_deadline(run_both: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = {"step_delay_seconds": 0.02, "context_length": 4000}
        async with running_registry(Models(demo=slow), tmp_path) as registry:
            pids: list[int | None] = []

            async def request() -> None:
                async with registry.acquire("demo", GENERATE) as client:
                    pids.append(registry.status()[0].worker_pid)
                    await read_all(client, ask(max_tokens=None, ignore_eos=True))

            request_task = asyncio.create_task(request())
            while not pids:  # noqa: ASYNC110 - the load itself is waited for
                await asyncio.sleep(0.01)
            await registry.drain(0.1)
            with pytest.raises(UnavailableError, match="shutting down"):
                await request_task
            assert pids[0] is not None
            assert not exists(pids[0])

    run_both(scenario())


def test_an_idle_model_gives_its_process_back(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        now = 0.0
        events = Events()
        async with running_registry(
            Models(demo={}), tmp_path, clock=lambda: now, emit=events, idle_unload_seconds=60
        ) as registry:
            async with registry.acquire("demo", GENERATE) as client:
                await read_all(client)
                pid = registry.status()[0].worker_pid
                assert pid is not None
                now += 61
                await registry.unload_idle()
                assert exists(pid), "it is in use"
            now += 61
            await registry.unload_idle()
            assert not exists(pid)
            assert events.seen[-1] == ModelUnloaded("demo", "idle")

    run(scenario())


def test_a_full_queue_refuses_the_next_request_and_only_that(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running_registry(Models(demo={"step_delay_seconds": 0.01}), tmp_path, max_queue=3) as registry,
            registry.acquire("demo", GENERATE) as client,
        ):
            streams = [client.generate(ask(max_tokens=200)) for _ in range(3)]
            for stream in streams:
                await anext(stream)
            with pytest.raises(OverloadedError, match="3 requests running and waiting"):
                await read_all(client)
            for stream in streams:
                assert finished([event async for event in stream]).usage.completion_tokens == 200
            await read_all(client)

    run(scenario())


def test_chat_messages_pass_through_the_models_template(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        echo = fake_backend("load_echo")
        async with (
            running_registry(Models(demo={}), tmp_path, backend=echo) as registry,
            registry.acquire("demo", GENERATE) as client,
        ):
            prompt = ChatPrompt(({"role": "user", "content": "Grüße 🙂"},))
            answer = await read_all(client, GenerateRequest(prompt, SamplingParams(max_tokens=200)))
            assert "Grüße 🙂" in text_of(answer)

    run(scenario())
