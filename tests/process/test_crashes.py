"""Workers that die: everybody who waits learns why, the next request reloads, and a broken build is worked round."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.errors import (
    ModelLoadError,
    UnavailableError,
    WorkerCrashedError,
)
from localllm.contract.events import ModelLoaded, WorkerDied
from localllm.contract.model import Mode
from localllm.host.safe_mode import SafeModeMemory
from localllm.host.states import ModelState
from tests.process.conftest import Run
from tests.process.harness import (
    PATIENCE_SECONDS,
    Events,
    Models,
    ask,
    fake_backend,
    finished,
    first_chunk,
    read_all,
    running_registry,
)

pytestmark = pytest.mark.process

GENERATE = Mode.GENERATE
SELF_TEST_STEPS = 3


@pytest.mark.parametrize(
    ("how", "detail", "words"),
    [
        ("SIGSEGV", {"signal": "SIGSEGV"}, "SIGSEGV: GGML_ASSERT(it was told to)"),
        ("SIGKILL", {"signal": "SIGKILL"}, "SIGKILL: GGML_ASSERT(it was told to)"),
        ("raise", {"exit_code": 70}, "exit code 70: GGML_ASSERT(it was told to)"),
    ],
)
def test_a_crash_in_mid_stream_names_its_cause_and_the_next_request_reloads(
    run_both: Run, tmp_path: Path, how: str, detail: dict[str, Any], words: str
) -> None:
    settings = {
        "crash_after_steps": SELF_TEST_STEPS + 50,
        "step_delay_seconds": 0.02,
        "crash_signal": how,
        "last_words": "GGML_ASSERT(it was told to)",
    }

    async def scenario() -> None:
        events = Events()
        async with running_registry(Models(demo=settings), tmp_path, emit=events) as registry:
            for _ in range(2):
                async with registry.acquire("demo", GENERATE) as client:
                    streams = [client.generate(ask(max_tokens=100)) for _ in range(3)]
                    await asyncio.gather(*map(first_chunk, streams))
                    for stream in streams:
                        with pytest.raises(WorkerCrashedError) as caught:
                            async for _ in stream:
                                continue
                        assert caught.value.detail == detail
                        assert words in caught.value.message
                    assert registry.status()[0].state is ModelState.FAILED
            assert [event.last_line for event in events.of(WorkerDied)] == ["GGML_ASSERT(it was told to)"] * 2
            assert len(events.of(ModelLoaded)) == 2

    run_both(scenario())


def test_other_models_do_not_notice_a_crash(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        models = Models(healthy={}, sick={"crash_after_steps": SELF_TEST_STEPS + 1})
        async with (
            running_registry(models, tmp_path) as registry,
            registry.acquire("healthy", GENERATE) as healthy,
        ):
            stream = healthy.generate(ask(max_tokens=300))
            await first_chunk(stream)
            async with registry.acquire("sick", GENERATE) as sick:
                with pytest.raises(WorkerCrashedError):
                    await read_all(sick)
            rest = [event async for event in stream]
            assert finished(rest).usage.completion_tokens == 300

    run(scenario())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fail_load": "this file is no model"}, "this file is no model"),
        ({"crash_on_load": "SIGABRT", "last_words": "GGML_ASSERT(n > 0) failed"}, "SIGABRT while loading: GGML_ASSERT"),
        ({"crash_on_load": "raise"}, "RuntimeError: the fake decoder was told to raise"),
        ({"no_such_setting": 1}, "no setting 'no_such_setting'"),
    ],
)
def test_a_load_that_fails_says_why_and_leaves_no_process(
    run_both: Run, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    async def scenario() -> None:
        async with running_registry(Models(demo=settings), tmp_path) as registry:
            with pytest.raises(ModelLoadError) as caught:
                async with registry.acquire("demo", GENERATE):
                    raise AssertionError("it loaded")
            assert message in caught.value.message
            assert registry.status()[0].state is ModelState.FAILED

    run_both(scenario())


def test_a_factory_that_does_not_exist_is_a_load_error(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = fake_backend("no_such_factory")
        async with running_registry(Models(demo={}), tmp_path, backend=backend) as registry:
            with pytest.raises(ModelLoadError, match="no_such_factory"):
                async with registry.acquire("demo", GENERATE):
                    raise AssertionError("it loaded")

    run(scenario())


def test_crash_after_crash_opens_the_breaker_and_a_later_probe_recovers(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        now = 0.0
        models = Models(demo={"crash_on_load": "SIGABRT"})
        events = Events()
        async with running_registry(models, tmp_path, emit=events, clock=lambda: now) as registry:

            async def use() -> None:
                async with registry.acquire("demo", GENERATE) as client:
                    await read_all(client)

            for _ in range(3):
                with pytest.raises(ModelLoadError):
                    await use()
            with pytest.raises(UnavailableError) as caught:
                await use()
            assert caught.value.detail["retry_after_seconds"] == 10
            assert len(events.of(WorkerDied)) == 3, "nothing was started while it rested"
            models.change(replace(models.resolve("demo"), settings={}))
            now += 10
            await use()

    run(scenario())


def test_a_build_that_crashes_at_its_self_test_is_loaded_in_safe_mode_and_remembered(
    run_both: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = fake_backend(build_id=lambda: "build-7", rebuild_command="make rebuild")

    async def load() -> list[str]:
        events = Events()
        models = Models(demo={"crash_unless_safe_mode": "SIGSEGV"})
        async with running_registry(models, tmp_path / "state", backend=backend, emit=events) as registry:
            async with registry.acquire("demo", GENERATE) as client:
                await read_all(client)
            (status,) = registry.status()
            assert status.safe_mode
            assert status.state is ModelState.READY
        return [event.cause for event in events.of(WorkerDied)]

    with caplog.at_level(logging.WARNING):
        assert run_both(load()) == ["SIGSEGV"]
    assert "make rebuild" in caplog.text
    assert SafeModeMemory(tmp_path / "state" / "safe_mode.json").holds("fake", "build-7")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert run_both(load()) == [], "the second start knows"
    assert "make rebuild" in caplog.text, "and says so again"


def test_a_model_that_crashes_in_safe_mode_too_fails_by_its_first_signal_and_is_not_remembered(
    run: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        events = Events()
        models = Models(demo={"crash_on_load": "SIGILL"})
        async with running_registry(models, tmp_path, emit=events) as registry:
            with pytest.raises(ModelLoadError, match="SIGILL") as caught:
                async with registry.acquire("demo", GENERATE):
                    raise AssertionError("it loaded")
            assert caught.value.detail == {"signal": "SIGILL"}
            assert len(events.of(WorkerDied)) == 2
        assert not (tmp_path / "safe_mode.json").exists()

    run(scenario())


def test_a_kill_from_outside_while_idle_is_noticed_and_repaired(run_both: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        events = Events()
        async with running_registry(Models(demo={}), tmp_path, emit=events) as registry:
            for deaths in (1, 2):
                async with registry.acquire("demo", GENERATE) as client:
                    await read_all(client)
                pid = registry.status()[0].worker_pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await events.wait_for(WorkerDied, deaths)
                assert registry.status()[0].state is ModelState.FAILED

    run_both(scenario())


def test_a_death_in_mid_unload_frees_the_model_at_once_though_an_answer_of_it_is_still_being_read(
    run: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        events = Events()
        async with (
            running_registry(Models(demo={}), tmp_path, emit=events, max_loaded=1) as registry,
            registry.acquire("demo", GENERATE),
        ):
            unloading = asyncio.create_task(registry.unload("demo"))
            await asyncio.wait({unloading}, timeout=0.1)
            (status,) = registry.status()
            assert status.state is ModelState.DRAINING
            assert status.worker_pid is not None
            os.kill(status.worker_pid, signal.SIGKILL)
            await events.wait_for(WorkerDied)
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await unloading
                async with registry.acquire("demo", GENERATE) as client:
                    assert finished(await read_all(client))
                    assert len(registry.room.held) == 1

    run(scenario())
