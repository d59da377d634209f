"""A worker that breaks the protocol is killed, and everybody who waits for it gets a typed error."""

from __future__ import annotations

import asyncio
import os
import re
import signal

import pytest

from localllm.contract.backend import LoadRequest
from localllm.contract.errors import LocalLLMError, ModelFileError, ModelLoadError, SlowReaderError, WorkerCrashedError
from localllm.contract.model import Mode
from localllm.contract.wire import Hello
from localllm.host.client import ClientLimits
from localllm.host.launch import LaunchSettings, WorkerDiedLoadingError, launch_worker
from localllm.host.process import WorkerExit
from tests.process.conftest import Run
from tests.process.harness import (
    PATIENCE_SECONDS,
    ask,
    exists,
    first_chunk,
    read_all,
    scripted_command,
    scripted_worker,
    text_of,
)
from tests.processes import ends_within

pytestmark = pytest.mark.process


async def crash(script: str) -> tuple[WorkerCrashedError, WorkerExit]:
    """Ask a worker that spoils its answer; return the error of the request and the end of the process."""
    async with scripted_worker(script) as client:
        with pytest.raises(WorkerCrashedError) as caught:
            await read_all(client)
        async with asyncio.timeout(PATIENCE_SECONDS):
            exit_ = await client.exited
        assert not exists(client.pid)
        with pytest.raises(WorkerCrashedError):
            await read_all(client)
        return caught.value, exit_


def test_a_scripted_worker_that_keeps_to_the_rules_answers(run_both: Run) -> None:
    async def scenario() -> None:
        async with scripted_worker("well_behaved") as client:
            for _ in range(3):
                assert text_of(await read_all(client)) == "ok"

    run_both(scenario())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("garbage_frame", "not JSON"),
        ("frame_of_four_gigabytes", "4294967295 bytes is longer than the limit"),
        ("unknown_request_id", "unknown request 'r999'"),
        ("ready_twice", "ready already"),
        ("closes_its_pipe_and_goes_on", "closed a pipe"),
        ("stops_listening", "closed a pipe"),
    ],
)
def test_a_worker_that_breaks_the_protocol_is_killed(run_both: Run, script: str, reason: str) -> None:
    error, exit_ = run_both(crash(script))
    assert reason in error.message
    assert error.detail == {"signal": "SIGKILL", "cause": "protocol"}
    assert (exit_.killed_for, exit_.returncode) == ("protocol", -signal.SIGKILL)


@pytest.mark.parametrize("script", ["half_frame_then_exit", "exit_0_in_mid_stream"])
def test_an_exit_with_answers_owed_is_an_error_even_when_the_worker_calls_it_success(
    run_both: Run, script: str
) -> None:
    error, exit_ = run_both(crash(script))
    assert error.detail == {"exit_code": 0}
    assert "exit code 0" in error.message
    assert exit_.killed_for is None


def test_what_was_sent_before_the_death_arrives_before_the_error(run_both: Run) -> None:
    async def scenario() -> None:
        async with scripted_worker("exit_0_in_mid_stream") as client:
            stream = client.generate(ask())
            assert (await first_chunk(stream)).text == "half"
            with pytest.raises(WorkerCrashedError):
                await anext(stream)

    run_both(scenario())


def test_late_events_of_a_finished_request_do_no_harm(run: Run) -> None:
    async def scenario() -> None:
        async with scripted_worker("finished_twice") as client:
            assert text_of(await read_all(client)) == "half"
            assert text_of(await read_all(client)) == "half"

    run(scenario())


async def load(script: str, *, seconds: float = 30.0) -> None:
    hello = Hello("scripted:worker", LoadRequest("demo", None, Mode.GENERATE))
    client = await launch_worker(scripted_command(script), hello, LaunchSettings(ClientLimits(), seconds))
    await client.close()


def test_a_worker_may_tell_of_work_as_soon_as_it_is_ready(run_both: Run) -> None:
    async def scenario() -> None:
        async with scripted_worker("works_before_it_is_asked") as client:
            assert client.prefilled_tokens_total == 7
            await read_all(client)

    run_both(scenario())


def test_what_it_tells_then_is_checked_like_all_else(run_both: Run) -> None:
    async def scenario() -> WorkerExit:
        async with scripted_worker("nonsense_in_one_breath_with_ready") as client:
            return await client.exited

    assert run_both(scenario()).killed_for == "protocol"


@pytest.mark.parametrize("script", ["batch_before_ready", "print_instead_of_a_frame"])
def test_nonsense_before_ready_ends_the_worker(run_both: Run, script: str) -> None:
    with pytest.raises(WorkerDiedLoadingError) as caught:
        run_both(load(script))
    assert caught.value.exit.killed_for == "protocol"


def test_an_exit_while_loading_tells_the_line_with_the_error_in_it(run_both: Run) -> None:
    with pytest.raises(WorkerDiedLoadingError) as caught:
        run_both(load("exit_1_while_loading"))
    assert caught.value.exit == WorkerExit(1, "error: no such device")


def test_a_refusal_to_load_is_raised_as_its_own_type_and_leaves_no_process(run_both: Run) -> None:
    with pytest.raises(ModelFileError, match="tensor 3 is cut off"):
        run_both(load("refuse_to_load_and_stay"))


def test_a_worker_that_is_never_ready_is_given_up_after_the_timeout(run_both: Run) -> None:
    with pytest.raises(ModelLoadError, match=r"not ready after 0\.3 seconds.*load_timeout_seconds"):
        run_both(load("never_ready", seconds=0.3))


def test_loading_that_is_cancelled_leaves_no_process(run_both: Run) -> None:
    async def scenario() -> None:
        loading = asyncio.create_task(load("never_ready"))
        await asyncio.wait({loading}, timeout=0.3)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading

    run_both(scenario())


def test_a_program_that_can_not_be_started_is_a_load_error(run: Run) -> None:
    async def scenario() -> None:
        command = scripted_command("well_behaved")
        missing = type(command)(command.name, command.environment, ("/nowhere/python",))
        hello = Hello("scripted:worker", LoadRequest("demo", None, Mode.GENERATE))
        await launch_worker(missing, hello, LaunchSettings(ClientLimits()))

    with pytest.raises(ModelLoadError, match=r"could not be started \(/nowhere/python"):
        run(scenario())


def test_settings_that_are_no_json_are_a_load_error(run: Run) -> None:
    async def scenario() -> None:
        hello = Hello("scripted:worker", LoadRequest("demo", None, Mode.GENERATE, {"path": object()}))
        await launch_worker(scripted_command("never_ready"), hello, LaunchSettings(ClientLimits()))

    with pytest.raises(ModelLoadError, match="settings of model 'demo'"):
        run(scenario())


def test_a_flood_on_stderr_blocks_nothing_and_keeps_the_assertion(run_both: Run) -> None:
    async def scenario() -> None:
        async with scripted_worker("stderr_flood") as client:
            assert text_of(await read_all(client)) == "half"
            with pytest.raises(WorkerCrashedError, match=r"SIGABRT: GGML_ASSERT\(flood\) failed") as caught:
                await read_all(client)
            assert caught.value.detail == {"signal": "SIGABRT"}

    run_both(scenario())


def test_a_death_is_noticed_while_a_grandchild_holds_the_pipes_open(run_both: Run) -> None:
    async def scenario() -> None:
        async with scripted_worker("grandchild_holds_the_pipes") as client:
            with pytest.raises(WorkerCrashedError, match="SIGKILL: grandchild") as caught:
                await read_all(client)
            found = re.search(r"grandchild (\d+)", caught.value.message)
            assert found is not None
            grandchild = int(found[1])
            assert exists(grandchild), "it still holds the pipes"
            os.kill(grandchild, signal.SIGKILL)
            assert ends_within(grandchild, 10)

    run_both(scenario())


def test_a_worker_that_ignores_every_request_to_leave_is_killed(run_both: Run) -> None:
    async def scenario() -> None:
        async with scripted_worker("ignores_sigterm_and_shutdown", stop_seconds=0.2) as client:
            pid = client.pid
            async with asyncio.timeout(PATIENCE_SECONDS):
                await client.close()
            assert not exists(pid)
            assert (await client.exited).returncode == -signal.SIGKILL
            await client.close()

    run_both(scenario())


def test_a_slow_reader_is_cut_off_alone(run_both: Run) -> None:
    async def scenario() -> None:
        async with scripted_worker("answers_fast_without_end") as client:
            slow = client.generate(ask())
            await first_chunk(slow)
            while client.open_requests:  # it reads nothing while others are answered
                assert text_of(await read_all(client)) == "ok"
            with pytest.raises(SlowReaderError, match="262144 bytes"):
                await anext(slow)
            assert text_of(await read_all(client)) == "ok"

    run_both(scenario())


def test_a_request_that_no_frame_can_hold_fails_alone(run: Run) -> None:
    async def scenario() -> None:
        async with scripted_worker("well_behaved") as client:
            for text in ("\ud800", "x" * (64 * 1024 * 1024)):
                with pytest.raises(LocalLLMError) as caught:
                    await read_all(client, ask(text))
                assert caught.value.code == "invalid_request"
            assert client.open_requests == 0
            assert text_of(await read_all(client)) == "ok"

    run(scenario())
