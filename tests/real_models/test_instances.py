"""Two workers with the bundled model behind one name, on a real port: both answer, one is killed, the other goes on."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.real_models.conftest import ROOT, RunningServer, running_server

MODEL = ROOT / "models" / "chat" / "localllm-demo.gguf"
TWIN = f'[models.define.twin]\npath = "{MODEL}"\nparallel = 1\nmin_instances = 2\n'
LONG = {"model": "twin", "prompt": "once upon a time", "stream": True, "ignore_eos": True, "max_tokens": 1800}
SHORT = {"model": "twin", "messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}

pytestmark = [pytest.mark.process, pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of POSIX")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with running_server(tmp_path, define=TWIN) as running:
        yield running


class Stream:
    """A streamed completion whose worker writes it while nobody reads it."""

    def __init__(self, stack: ExitStack, client: httpx.Client) -> None:
        self._lines = stack.enter_context(client.stream("POST", "/v1/completions", json=LONG)).iter_lines()
        self.begins = next(self._lines)

    def rest(self) -> list[str]:
        return [line.removeprefix("data: ") for line in self._lines if line.startswith("data: ")]


def instances(client: httpx.Client) -> list[dict[str, Any]]:
    found = client.get("/v1/models/twin").json()["status"].get("instances", [])
    return [one for one in found if one["value"] == "loaded"]


def ask(client: httpx.Client) -> str:
    answer = client.post("/v1/chat/completions", json=SHORT)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def wait_for_both(client: httpx.Client) -> list[int]:
    """Put the server to work until two workers are there; return their process ids."""
    while len(found := instances(client)) < 2:
        assert ask(client) == "The capital of France is Paris."
    return [one["worker_pid"] for one in found]


def test_one_of_two_workers_is_killed_and_the_other_goes_on(server: RunningServer) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client, ExitStack() as stack:
        first, second = wait_for_both(client)
        listed = {one["name"]: one["instances"] for one in client.get("/models/list").json()}
        assert (listed["twin"], listed["localllm-demo"]) == (2, 0)
        doomed = Stream(stack, client)
        by_pid = {one["worker_pid"]: one["in_flight"] for one in instances(client)}
        assert by_pid == {first: 1, second: 0}
        os.kill(first, signal.SIGSTOP)  # it can't have finished before it dies
        lasting = Stream(stack, client)
        assert lasting.begins.startswith("data: ")
        assert {one["worker_pid"]: one["in_flight"] for one in instances(client)}[first] == 1
        os.kill(first, signal.SIGKILL)
        *_, last = doomed.rest()
        assert json.loads(last)["error"]["code"] == "worker_crashed"
        *texts, done = lasting.rest()
        assert done == "[DONE]"
        assert json.loads(texts[-1])["choices"][0]["finish_reason"] == "length"
        assert ask(client) == "The capital of France is Paris."
        again = wait_for_both(client)
        assert second in again
        assert first not in again
        unloaded = client.post("/v1/models/unload", json={"model": "twin"}).json()
        assert (unloaded["state"], unloaded["status"]["instances"]) == ("unloaded", [])
        assert not any(Path(f"/proc/{pid}").exists() for pid in again)
