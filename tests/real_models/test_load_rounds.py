"""A benchmark's model is loaded and let go many times: the server's memory comes back, and no process stays."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks import models
from tests.real_models.conftest import RunningServer, running_server

FULL = bool(os.environ.get("LOCALLLM_TEST_FULL"))
SIZE, WARM_UP, ROUNDS = ("135m", 5, 20) if FULL else ("tiny", 3, 20)
MODEL = "localllm-demo"  # whatever lies there: servers of tests are configured with this name
GROWTH_BYTES = 5 * 1024 * 1024

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform != "linux", reason="processes are read in /proc")]


@pytest.fixture(scope="session")
def bench_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models' folder with the benchmarks' model alone."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "chat").mkdir()
    models.write(folder / "chat" / f"{MODEL}.gguf", SIZE)
    return folder


@pytest.fixture
def server(tmp_path: Path, bench_models: Path) -> Iterator[RunningServer]:
    with running_server(tmp_path, models=bench_models) as running:
        yield running


def anonymous_bytes(pid: int) -> int:
    """What a process took for itself, without pages of files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def children_of(pid: int) -> set[int]:
    """Processes whose parent is ``pid``, those that nobody has reaped included."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has gone
            continue
        if int(fields[1]) == pid:
            found.add(int(folder.name))
    return found


def one_round(client: httpx.Client, pid: int, before: set[int]) -> None:
    body = {"model": MODEL}
    assert client.post("/v1/models/load", json=body).status_code == 200
    assert len(children_of(pid) - before) == 1
    answer = client.post("/v1/completions", json={**body, "prompt": "in the hills", "max_tokens": 4})
    assert answer.status_code == 200
    assert client.post("/v1/models/unload", json=body).status_code == 200
    assert children_of(pid) == before


@pytest.mark.timeout(300)
def test_rounds_of_loading_leave_nothing_behind(server: RunningServer) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        client.post("/v1/models/unload", json={"model": MODEL})  # where it was loaded at the start
        before = children_of(server.pid)
        for _ in range(WARM_UP):
            one_round(client, server.pid, before)
        start = anonymous_bytes(server.pid)
        for _ in range(ROUNDS):
            one_round(client, server.pid, before)
        growth = anonymous_bytes(server.pid) - start
        assert growth < GROWTH_BYTES
