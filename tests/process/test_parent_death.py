"""No worker outlives its server, however that dies and whatever the worker is doing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.backend import LoadRequest
from localllm.contract.model import Mode
from localllm.contract.wire import Hello
from localllm.transport.codec import encode_to_worker
from localllm.transport.framing import pack_frame, read_frame
from localllm.transport.launch import PARENT_PID_VARIABLE, WORKER_ARGV
from tests.processes import ends_within

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
ORPHAN_SECONDS = 2.0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "settings",
    [
        {"context_length": 4000, "step_delay_seconds": 0.001},
        {"hang_after_steps": 9, "step_delay_seconds": 0.01},
        {"hang_after_steps": 9, "step_delay_seconds": 0.01, "hang_holds_gil": True},
    ],
    ids=["decoding", "hanging", "hanging with the GIL"],
)
def test_workers_are_gone_two_seconds_after_kill_9_of_the_server(
    tmp_path: Path, loop: str, settings: dict[str, Any]
) -> None:
    command = [sys.executable, "-m", "tests.process.parent", loop, str(tmp_path), json.dumps(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as server:
        assert server.stdout is not None
        workers = json.loads(server.stdout.readline())
        assert len(workers) == 2
        server.kill()
    left = [pid for pid in workers if not ends_within(pid, ORPHAN_SECONDS)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def start_worker(**environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        WORKER_ARGV,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], **environment},
    )


def hello(**settings: Any) -> bytes:
    load = LoadRequest("demo", None, Mode.GENERATE, settings)
    return pack_frame(encode_to_worker(Hello("localllm.testing.decoders:load_fake", load)))


def test_the_end_of_stdin_ends_a_worker_that_waits_for_hello() -> None:
    with start_worker() as worker:
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(30) == 0


def test_the_end_of_stdin_ends_a_worker_in_the_middle_of_loading() -> None:
    with start_worker() as worker:
        assert worker.stdin is not None
        worker.stdin.write(hello(load_delay_seconds=3600))
        worker.stdin.close()
        assert worker.wait(30) == 0


def test_the_end_of_stdin_ends_an_idle_worker() -> None:
    with start_worker() as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(hello())
        worker.stdin.flush()
        assert read_frame(worker.stdout) is not None
        worker.stdin.close()
        assert worker.wait(30) == 0


def test_a_worker_whose_server_died_before_it_looked_leaves_at_once() -> None:
    with start_worker(**{PARENT_PID_VARIABLE: "1234567"}) as worker:
        assert worker.wait(30) == 0


def test_ctrl_c_in_the_terminal_leaves_workers_to_their_server() -> None:
    with start_worker() as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(hello())
        worker.stdin.flush()
        assert read_frame(worker.stdout) is not None
        worker.send_signal(signal.SIGINT)
        worker.stdin.write(pack_frame(b'["Cancel",{"request_id":"r1"}]'))
        worker.stdin.write(pack_frame(b'["Shutdown",{}]'))
        worker.stdin.flush()
        assert worker.wait(30) == 0, "it left by Shutdown, not by the signal"


def test_a_worker_is_confined(tmp_path: Path) -> None:
    secret = tmp_path / "open"
    secret.write_text("")
    descriptor = os.open(secret, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    with subprocess.Popen(
        WORKER_ARGV,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
        close_fds=False,
    ) as worker:
        os.close(descriptor)
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(hello())
        worker.stdin.flush()
        assert read_frame(worker.stdout) is not None
        process = Path(f"/proc/{worker.pid}")
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
        assert status["NoNewPrivs"].strip() == "1"
        limits = (process / "limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
        own_score = int(Path("/proc/self/oom_score_adj").read_text())
        assert int((process / "oom_score_adj").read_text()) > own_score or own_score == 1000
        opened = {entry.readlink() for entry in (process / "fd").iterdir()}
        assert secret not in opened
        worker.stdin.close()
        assert worker.wait(30) == 0


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xff\xff\xff", pack_frame(b"no json"), pack_frame(b'["Shutdown",{}]'), b"\x00\x00\x00\x09half"],
    ids=["four gigabytes", "garbage", "no Hello", "half a frame"],
)
def test_garbage_from_the_server_ends_the_worker_with_an_error(garbage: bytes) -> None:
    with start_worker() as worker:
        assert worker.stdin is not None
        worker.stdin.write(garbage)
        worker.stdin.close()
        assert worker.wait(30) == 70
