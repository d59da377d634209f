"""Workers that run out of memory, and files that change under them: one typed error, and the server goes on."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from localllm.contract.errors import ModelFileError, ModelLoadError, WorkerCrashedError
from localllm.contract.events import ModelLoaded, ModelUnloaded, WorkerDied
from localllm.contract.model import Mode, ModelSpec
from localllm.host.states import ModelState
from tests.process.conftest import Run
from tests.process.harness import Events, Models, read_all, running_registry, scripted_argv, text_of

pytestmark = pytest.mark.process

GENERATE = Mode.GENERATE


def test_a_load_that_runs_out_of_memory_is_a_typed_error_after_idle_models_made_room(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        events = Events()
        models = Models(big={"n_gpu_layers": -1})
        argv = scripted_argv("has_too_little_memory_to_load")
        async with running_registry(models, tmp_path, emit=events, worker_argv=argv) as registry:
            with pytest.raises(ModelLoadError, match="MemoryError") as caught:
                async with registry.acquire("big", GENERATE):
                    raise AssertionError("it loaded")
            assert caught.value.detail["reason"] == "memory"
            assert len(events.of(WorkerDied)) == 2, "there was nobody to let go; then it was tried with fewer layers"
            assert registry.status()[0].state is ModelState.FAILED
            assert not registry.room.held

    run(scenario())


def test_running_out_of_memory_at_work_is_a_crash_of_that_worker(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        argv = scripted_argv("has_too_little_memory_to_answer")
        async with running_registry(Models(demo={}), tmp_path, worker_argv=argv) as registry:
            for _ in range(2):
                async with registry.acquire("demo", GENERATE) as client:
                    with pytest.raises(WorkerCrashedError, match="MemoryError"):
                        await read_all(client)
            assert not registry.room.held

    run(scenario())


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "demo.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 64 * 1024 + b"original")
    return path


def mapped(path: Path, created: int = 0) -> Models:
    models = Models(demo={})
    models.change(ModelSpec("demo", "fake", path=str(path), created=created))
    return models


def test_a_file_that_is_cut_off_while_it_is_mapped_costs_one_worker_and_the_reload_says_why(
    run: Run, tmp_path: Path, weights: Path
) -> None:
    async def scenario() -> None:
        argv = scripted_argv("reads_a_mapped_file")
        async with running_registry(mapped(weights), tmp_path, worker_argv=argv) as registry:
            async with registry.acquire("demo", GENERATE) as client:
                assert text_of(await read_all(client)) == "original"
                os.truncate(weights, 2)
                with pytest.raises(WorkerCrashedError) as caught:
                    await read_all(client)
                assert caught.value.detail == {"signal": "SIGBUS"}
            with pytest.raises(ModelFileError, match="no GGUF file"):
                async with registry.acquire("demo", GENERATE):
                    raise AssertionError("it loaded")
            assert not registry.room.held

    run(scenario())


def test_a_file_that_is_deleted_while_it_is_mapped_serves_on_until_it_must_be_loaded_again(
    run: Run, tmp_path: Path, weights: Path
) -> None:
    async def scenario() -> None:
        argv = scripted_argv("reads_a_mapped_file")
        async with running_registry(mapped(weights), tmp_path, worker_argv=argv) as registry:
            async with registry.acquire("demo", GENERATE) as client:
                os.unlink(weights)  # noqa: PTH108 - a path's own method would be blocking, the linter says
                assert text_of(await read_all(client)) == "original"
            await registry.unload("demo")
            with pytest.raises(ModelFileError, match="No such file"):
                async with registry.acquire("demo", GENERATE):
                    raise AssertionError("it loaded")

    run(scenario())


def test_a_file_that_is_replaced_by_renaming_is_loaded_anew_for_the_next_request(
    run: Run, tmp_path: Path, weights: Path
) -> None:
    async def scenario() -> None:
        events = Events()
        argv = scripted_argv("reads_a_mapped_file")
        models = mapped(weights)
        async with running_registry(models, tmp_path, emit=events, worker_argv=argv) as registry:
            async with registry.acquire("demo", GENERATE) as client:
                fresh = tmp_path / "fresh"
                fresh.write_bytes(b"GGUF" + b"\0" * 64 * 1024 + b"replaced")
                fresh.replace(weights)
                models.change(ModelSpec("demo", "fake", path=str(weights), created=1))
                assert text_of(await read_all(client)) == "original", "who is inside goes on with the old one"
            async with registry.acquire("demo", GENERATE) as client:
                assert text_of(await read_all(client)) == "replaced"
            assert [event.reason for event in events.of(ModelUnloaded)] == ["replaced"]
            assert len(events.of(ModelLoaded)) == 2

    run(scenario())


def test_cancelled_while_loading_and_asked_again_with_other_settings_leaves_one_worker(
    run: Run, tmp_path: Path
) -> None:
    async def scenario() -> None:
        events = Events()
        models = Models(demo={"load_seconds": 0.2})
        argv = scripted_argv("lives_as_the_settings_say")
        async with running_registry(models, tmp_path, emit=events, worker_argv=argv, max_loaded=1) as registry:

            async def use() -> int | None:
                async with registry.acquire("demo", GENERATE) as client:
                    await read_all(client)
                    return registry.status()[0].worker_pid

            first = asyncio.create_task(use())
            await asyncio.sleep(0.05)
            first.cancel()
            models.change(ModelSpec("demo", "fake", settings={"load_seconds": 0.0}))
            pids = await asyncio.gather(use(), use(), use())
            assert len(set(pids)) == 1
            loaded, unloaded = events.of(ModelLoaded), events.of(ModelUnloaded)
            assert (len(loaded), [event.reason for event in unloaded]) == (2, ["replaced"])

    run(scenario())
