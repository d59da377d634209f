"""The command line and reloads against a real server with the bundled model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import httpx
import pytest

from tests.processes import ends_within
from tests.real_models.conftest import ROOT, RunningServer, running_server

pytestmark = [pytest.mark.real_model, pytest.mark.process]
KEY = "sk-test-0123456789abcdef"
MODEL = ROOT / "models" / "chat" / "localllm-demo.gguf"
STORY = {"messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0, "max_tokens": 400}


def localllm(folder: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "localllm", *arguments]
    environment = {**os.environ, "LOCALLLM_CLIENT_KEY": KEY}
    return subprocess.run(
        command, cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=55, check=False
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Path]]:
    folder = tmp_path_factory.mktemp("commands")
    with running_server(folder, api_key=KEY) as running:
        yield running, folder


def client(running: RunningServer) -> httpx.Client:
    return httpx.Client(base_url=running.url, headers={"authorization": f"Bearer {KEY}"}, timeout=50)


def until(true: Callable[[], bool]) -> None:
    """Ask again and again; a model that is not loaded answers at once."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline


def define(folder: Path, name: str, **settings: object) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    text = (folder / "localllm.toml").read_text(encoding="utf-8").partition("\n[models.define.new")[0]
    new = "\n".join([f"\n[models.define.{name}]", f'path = "{MODEL}"', *lines, ""])
    (folder / "localllm.toml").write_text(text + new, encoding="utf-8")


def test_models_are_loaded_listed_used_and_let_go(served: tuple[RunningServer, Path], tmp_path: Path) -> None:
    running, _ = served
    url = ["--url", running.url]
    assert localllm(tmp_path, "models", "load", "org/name:Q4", "--ttl", "600", *url).stdout == "localllm-demo: ready\n"
    [shown] = json.loads(localllm(tmp_path, "models", "ps", "--json", *url).stdout)
    assert (shown["id"], shown["state"]) == ("localllm-demo", "ready")
    assert shown["status"]["worker_pid"] > 0
    assert 0 < shown["status"]["expires_in_seconds"] <= 600
    listed = json.loads(localllm(tmp_path, "models", "list", "--json", *url).stdout)["data"]
    assert {model["id"]: (model["state"], model["default"]) for model in listed}["localllm-demo"] == ("ready", True)
    assert "0 running, 0 waiting" in localllm(tmp_path, "models", "show", "localllm-demo", *url).stdout
    row = localllm(tmp_path, "models", "ps", *url).stdout.splitlines()[1].split()
    assert (row[0], row[-1]) == ("localllm-demo", str(shown["status"]["worker_pid"]))
    talk = localllm(tmp_path, "chat", *url, "--param", "temperature=0", text="What is the capital of France?\n")
    assert (talk.returncode, talk.stdout) == (0, "The capital of France is Paris.\n")
    assert localllm(tmp_path, "models", "unload", "localllm-demo", *url).stdout == "localllm-demo: unloaded\n"
    assert json.loads(localllm(tmp_path, "models", "ps", "--json", *url).stdout) == []


def test_a_definition_appears_changes_and_goes_by_itself(served: tuple[RunningServer, Path]) -> None:
    running, folder = served
    with client(running) as http:

        def context_length() -> int | None:
            answer = http.get("/v1/models/new")
            return answer.json()["max_model_len"] if answer.status_code == 200 else None

        define(folder, "new", context_length=256)
        until(lambda: context_length() is not None)
        http.post("/v1/chat/completions", json={**STORY, "model": "new", "max_tokens": 1}).raise_for_status()
        assert context_length() == 256
        define(folder, "new", context_length=384)
        until(lambda: any("models.define.new" in line for line in running.log[-3:]))
        until(lambda: http.post("/v1/chat/completions", json={**STORY, "model": "new", "max_tokens": 1}).is_success)
        until(lambda: context_length() == 384)  # replaced on its next use
        define(folder, "newer")
        until(lambda: http.get("/v1/models/new").status_code == 404)


def test_streams_go_on_under_a_storm_of_reloads(served: tuple[RunningServer, Path]) -> None:
    running, folder = served
    body = {**STORY, "model": "localllm-demo"}
    with client(running) as http:
        alone = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        texts: list[str] = []

        def read() -> None:
            with (
                client(running) as own,
                own.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer,
            ):
                events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
            texts.append("".join(event["choices"][0]["delta"].get("content") or "" for event in events))

        readers = [Thread(target=read) for _ in range(6)]
        statuses = []
        for number, reader in enumerate(readers):
            reader.start()
            if number % 3 == 2:
                (folder / "localllm.toml").write_text("[server\n", encoding="utf-8")
            else:
                write_storm(folder, number)
            statuses.append(http.post("/v1/admin/reload").status_code)
        for reader in readers:
            reader.join(50)
        assert statuses == [200, 200, 422, 200, 200, 422]
    assert alone
    assert texts == [alone] * 6


def write_storm(folder: Path, number: int) -> None:
    """Change keys, limits and definitions, but not the model that the streams use."""
    (folder / "localllm.toml").write_text(
        f'state_directory = "state"\n[server]\nport = 0\nshutdown_seconds = 1\napi_keys = ["{KEY}", "k{number}"]\n'
        f"ping_seconds = {number + 1}\nmax_body_bytes = {10_000 + number}\n"
        f'[models]\ndirectory = "{ROOT / "models"}"\ndefault = "localllm-demo"\nmax_queue = {50 + number}\n'
        f'[models.define.localllm-demo]\naliases = ["org/name:Q4"]\n[models.define.new{number}]\npath = "{MODEL}"\n'
        "[plugin.llama_cpp]\nthreads = 1\nthreads_batch = 1\n",
        encoding="utf-8",
    )


def test_chat_brings_a_server_of_its_own_and_takes_it_along(tmp_path: Path) -> None:
    (tmp_path / "localllm.toml").write_text(
        f'[server]\nport = 0\napi_keys = ["sk-own"]\nshutdown_seconds = 1\n[models]\ndirectory = "{ROOT / "models"}"\n'
        'default = "localllm-demo"\n[plugin.llama_cpp]\nthreads = 1\n',
        encoding="utf-8",
    )
    question = "What is the capital of France?\n"
    talk = localllm(tmp_path, "chat", "--param", "temperature=0", text=question)
    assert talk.stdout == "The capital of France is Paris.\n"
    assert "no server runs; starting one" in talk.stderr
    broken = localllm(tmp_path, "chat", "--set", "models.backend=none", text=question)
    assert broken.returncode == 3
    assert "a server of our own did not start (exit code 2):\nmodels.backend" in broken.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are looked up in /proc")
def test_a_chat_that_was_killed_leaves_no_server(tmp_path: Path) -> None:
    (tmp_path / "localllm.toml").write_text("[server]\nport = 0\n[plugins]\nenabled = ['chat']", encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "localllm", "chat"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("Hi\n")
        process.stdin.flush()
        lines = [process.stderr.readline() for _ in range(2)]  # the second one is the server's own answer: no model
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1, lines
        process.kill()
        assert ends_within(int(children[0]), 20)
