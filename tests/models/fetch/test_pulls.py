"""The pulls of a server: real child processes, one per source, watched, cancelled, and resumed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from localllm.contract.errors import InvalidRequestError, ModelFileError, UnavailableError
from localllm.contract.fetch import PullCancelledError, PullError, PullProgress, PullStatus, SourceSpec
from localllm.contract.model import ModelKind
from localllm.models.fetch.job import FetchPolicy, PullJob
from localllm.models.fetch_process import fetch_in_process
from localllm.models.known import KnownModel, KnownModels
from localllm.models.pull_options import PullOptions
from localllm.models.pulls import Pull, Pulls
from tests.models.fetch.kit import FileServer, Handler, Request, good, in_turn, model_bytes, status

pytestmark = pytest.mark.process

DATA = model_bytes(64)
ROOT = Path(__file__).parents[3]
POLICY = FetchPolicy(private_hosts=True, http_hosts=("127.0.0.1",), reserve_bytes=0)


@pytest.fixture(autouse=True)
def _sources_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def options(directory: Path, **changes: Any) -> PullOptions:
    sources = {
        "test": SourceSpec("test", "tests.models.fetch.sources:one_file", example="test:URL"),
        "odd": SourceSpec("odd", "tests.models.fetch.sources:misbehaving", local=True),
    }
    return PullOptions(**{"directory": directory / "models", "sources": sources, "policy": POLICY, **changes})


@asynccontextmanager
async def pulls_in(directory: Path, *, lone_grace_seconds: float = 60.0, **changes: Any) -> AsyncIterator[Pulls]:
    pulls = Pulls(options(directory, **changes), lone_grace_seconds=lone_grace_seconds)
    try:
        yield pulls
    finally:
        await pulls.close()


def run(scenario: Coroutine[Any, Any, None], loop: str = "asyncio") -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(scenario)


class Gate:
    """A route that sends a part of the file and waits until it is opened."""

    def __init__(self, data: bytes, after: int) -> None:
        self.data, self.after = data, after
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, handler: Handler, request: Request) -> None:
        handler.head(200, {"Content-Length": str(len(self.data)), "ETag": '"v1"'})
        handler.wfile.write(self.data[: self.after])
        handler.wfile.flush()
        self._loop.call_soon_threadsafe(self.reached.set)
        asyncio.run_coroutine_threadsafe(self.opened.wait(), self._loop).result(50)
        handler.wfile.write(self.data[self.after :])


async def until(pull: Pull, wanted: Callable[[PullProgress], bool]) -> None:
    async for progress in pull.follow():
        if wanted(progress):
            return
    raise AssertionError(f"the pull ended as {pull.progress}")


def part_bytes(directory: Path) -> int:
    (part,) = (directory / "models" / ".localllm").rglob("*.part")
    return part.stat().st_size


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_pull_in_a_process_of_its_own(tmp_path: Path, server: FileServer, loop: str) -> None:
    server.routes["/tiny.gguf"] = good(DATA)

    async def scenario() -> None:
        async with pulls_in(tmp_path) as pulls:
            pull = pulls.start(f"test:{server.origin}/tiny.gguf")
            seen = [progress async for progress in pull.follow()]
            assert pull.outcome().model_id == "tiny"
            assert seen[0].status is PullStatus.QUEUED
            assert seen[-1].status is PullStatus.SUCCESS
            assert (seen[-1].percent, seen[-1].model_id) == (100.0, "tiny")

    run(scenario(), loop)
    assert (tmp_path / "models/chat/tiny.gguf").read_bytes() == DATA


def test_two_at_once_are_one_pull(tmp_path: Path, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)

    async def scenario() -> None:
        async with pulls_in(tmp_path) as pulls:
            source = f"test:{server.origin}/tiny.gguf"
            first, second = pulls.start(source), pulls.start(source)
            assert first is second
            results = await asyncio.gather(first.wait(), second.wait())
            assert results[0] == results[1]
            with pytest.raises(InvalidRequestError, match="another id or kind"):
                pulls.start(source, model_id="a")
                pulls.start(source, model_id="b")

    run(scenario())
    assert len(server.requests) == 1


def test_a_cancelled_pull_keeps_its_part_and_the_next_goes_on(tmp_path: Path, server: FileServer) -> None:
    kept: list[int] = []

    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = in_turn(gate, good(DATA))
        async with pulls_in(tmp_path) as pulls:
            source = f"test:{server.origin}/tiny.gguf"
            pull = pulls.start(source)
            await until(pull, lambda progress: progress.completed_bytes > 0)
            await pulls.cancel(pull)
            gate.opened.set()
            kept.append(part_bytes(tmp_path))
            assert pull.progress.status is PullStatus.CANCELLED
            with pytest.raises(PullCancelledError):
                pull.outcome()
            assert pulls.running() == []
            await pulls.start(source).wait()

    run(scenario())
    assert 0 < kept[0] <= 20_000
    assert [request.offset for request in server.requests] == [None, kept[0]]
    assert (tmp_path / "models/chat/tiny.gguf").read_bytes() == DATA


@pytest.mark.parametrize("background", [False, True])
def test_a_pull_ends_some_time_after_its_last_watcher(tmp_path: Path, server: FileServer, background: bool) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        async with pulls_in(tmp_path, lone_grace_seconds=0.05) as pulls:
            pull = pulls.start(f"test:{server.origin}/tiny.gguf", background=background)
            with pull.watching():
                with pull.watching():
                    await gate.reached.wait()
                assert not pull.progress.status.is_final
            if background:
                gate.opened.set()
            final = [progress async for progress in pull.follow()][-1]
            gate.opened.set()
            assert final.status is (PullStatus.SUCCESS if background else PullStatus.CANCELLED)

    run(scenario())


def test_somebody_who_comes_back_in_time_finds_it_running(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        async with pulls_in(tmp_path, lone_grace_seconds=0.05) as pulls:
            pull = pulls.start(f"test:{server.origin}/tiny.gguf")
            with pull.watching():
                await gate.reached.wait()
            waiting = asyncio.create_task(pull.wait())
            await asyncio.sleep(0.1)  # longer than the grace
            gate.opened.set()
            assert (await waiting).model_id == "tiny"

    run(scenario())


def test_closing_cancels_all_and_takes_no_more(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        async with pulls_in(tmp_path) as pulls:
            pull = pulls.start(f"test:{server.origin}/tiny.gguf", background=True)
            await gate.reached.wait()
            await pulls.close()
            gate.opened.set()
            assert pull.progress.status is PullStatus.CANCELLED
            with pytest.raises(UnavailableError):
                pulls.start("test:x")

    run(scenario())


def test_more_pulls_than_may_run_wait_their_turn(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes |= {"/a.gguf": gate, "/b.gguf": good(DATA)}
        pulls = Pulls(options(tmp_path), max_running=1)
        first = pulls.start(f"test:{server.origin}/a.gguf")
        second = pulls.start(f"test:{server.origin}/b.gguf")
        await gate.reached.wait()
        assert second.progress.status is PullStatus.QUEUED
        gate.opened.set()
        await asyncio.gather(first.wait(), second.wait())
        await pulls.close()

    run(scenario())


def test_a_pull_is_found_by_the_names_that_its_model_will_have(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        known = KnownModels({"small": KnownModel("small", f"test:{server.origin}/tiny.gguf", ModelKind.CHAT)})
        async with pulls_in(tmp_path, known=known) as pulls:
            pull = pulls.start("Small", names=["nick"])
            async for progress in pull.follow():  # in every stage
                for name in ("small", "SMALL.gguf", "nick"):
                    assert pulls.pending(name) is pull, progress
                if progress.completed_bytes:
                    break
            assert pulls.pending("other") is None
            assert pull.model_id == "small"
            await gate.reached.wait()
            gate.opened.set()
            assert (await pull.wait()).model_id == "small"
            assert pulls.pending("small") is None
            assert pulls.list() == [pull] and pulls.get(pull.id) is pull

    run(scenario())
    assert (tmp_path / "models/chat/small.gguf").read_bytes() == DATA


def test_a_failure_is_the_typed_error_of_the_other_process(tmp_path: Path, server: FileServer) -> None:
    server.routes |= {"/gone.gguf": status(404), "/bad.gguf": good(b"<html>" * 100)}

    async def scenario() -> None:
        async with pulls_in(tmp_path) as pulls:
            for name, kind in (("gone", PullError), ("bad", ModelFileError)):
                pull = pulls.start(f"test:{server.origin}/{name}.gguf")
                with pytest.raises(kind):
                    await pull.wait()
                assert pull.progress.status is PullStatus.FAILED

    run(scenario())


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("die", r"exit code 3\): MisbehavingError: out of luck"),
        ("raise", "could not resolve odd:raise: ZeroDivisionError: by accident"),
        ("print", "has no model file"),
    ],
)
def test_a_source_that_misbehaves_is_an_error_of_its_pull(tmp_path: Path, reference: str, sentence: str) -> None:
    async def scenario() -> None:
        async with pulls_in(tmp_path) as pulls:
            with pytest.raises((PullError, InvalidRequestError), match=sentence):
                await pulls.start(f"odd:{reference}").wait()

    run(scenario())


def test_a_source_that_hangs_ends_with_its_pull(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pulls_in(tmp_path) as pulls:
            pull = pulls.start("odd:hang")
            await until(pull, lambda progress: progress.status is PullStatus.RESOLVING)
            await pulls.cancel(pull)
            assert pull.progress.status is PullStatus.CANCELLED

    run(scenario())


@pytest.mark.parametrize("source", ["", "nothing", "ftp://host/x", "test", ":x", "x" * 5000 + ":y"])
def test_sources_that_nobody_fetches(tmp_path: Path, source: str) -> None:
    async def scenario() -> None:
        async with pulls_in(tmp_path) as pulls:
            with pytest.raises(InvalidRequestError, match="can't be fetched: give a name of"):
                pulls.start(source)

    run(scenario())


def test_local_sources_are_for_those_who_sit_here(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pulls_in(tmp_path, local_sources=False) as pulls:
            with pytest.raises(InvalidRequestError, match="files of the server's own disk"):
                pulls.start("odd:x")

    run(scenario())


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    job = PullJob("test:x", "x", "nowhere:make", str(tmp_path))

    async def scenario() -> None:
        with pytest.raises(PullError, match="could not be started"):
            await fetch_in_process(job, lambda progress: None, argv=("/nonexistent/python",))

    run(scenario())


def test_secrets_of_the_server_are_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALLLM_API_KEYS", "sesame")
    program = "import os, sys; sys.stderr.write(' '.join(k for k in os.environ if 'LOCALLLM' in k) or 'none')"
    job = PullJob("test:x", "x", "nowhere:make", str(tmp_path))

    async def scenario() -> None:
        with pytest.raises(PullError, match=": none"):
            await fetch_in_process(job, lambda progress: None, argv=(sys.executable, "-c", program))

    run(scenario())


def started_by_hand(tmp_path: Path, server: FileServer, name: str) -> subprocess.Popen[bytes]:
    job = PullJob(
        f"test:{name}",
        f"{server.origin}/{name}",
        "tests.models.fetch.sources:one_file",
        str(tmp_path / "models"),
        policy=POLICY,
    )
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "localllm.models.fetch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job.to_plain()).encode() + b"\n")
    process.stdin.flush()
    return process


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "end of stdin"])
def test_a_fetching_process_that_ends_midway_leaves_what_the_next_goes_on_from(
    tmp_path: Path, server: FileServer, end: str
) -> None:
    """The end of stdin is what it sees of a server that was killed."""
    kept: list[int] = []

    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = in_turn(gate, good(DATA))
        process = started_by_hand(tmp_path, server, "tiny.gguf")
        assert process.stdout is not None and process.stdin is not None
        await gate.reached.wait()
        while b'"completed_bytes": 0' in (line := process.stdout.readline()):
            assert line
        if end == "end of stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.Signals[end])
        assert await asyncio.to_thread(process.wait, 20) == (0 if end == "end of stdin" else -signal.Signals[end])
        kept.append(part_bytes(tmp_path))
        gate.opened.set()
        process.stdout.close()
        if end != "end of stdin":
            process.stdin.close()

    run(scenario())
    assert not (tmp_path / "models" / "chat").exists()
    with started_by_hand(tmp_path, server, "tiny.gguf") as again:
        assert again.stdout is not None
        last = again.stdout.readlines()[-1]
    assert b'"result"' in last
    assert 0 < kept[0] <= 20_000
    assert [request.offset for request in server.requests] == [None, kept[0]]
    assert (tmp_path / "models/chat/tiny.gguf").read_bytes() == DATA


def test_by_hand_it_says_what_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "localllm.models.fetch"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, b"")
