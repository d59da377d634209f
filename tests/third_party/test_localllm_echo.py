"""A plugin of a third party works from its own distribution: found by its entry point, nothing but public names."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from localllm import Capabilities
from localllm.testing.decoder_contract import CHECKS, Check

SOURCE = Path(__file__).parent / "localllm-echo"
CONFIG = """
[server]
port = 0
[plugins]
enabled = ["chat", "completions", "echo"]
[plugin.echo]
prefix = "> "
context_length = 64
[models.define.parrot]
backend = "echo"
aliases = ["polly"]
context_length = 32
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the plugin by pip, without a network, into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for path in SOURCE.rglob("*"):  # pip builds inside the folder; the repository's stays clean
        if path.suffix in {".py", ".toml"}:
            target = source / path.relative_to(SOURCE)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    target = folder / "target"
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(target), str(source)], check=True, timeout=50)
    return target


@pytest.fixture
def environment(installed: Path, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "localllm.toml").write_text(CONFIG)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCALLLM_")}
    return {**kept, "PYTHONPATH": str(installed)}


def localllm(*arguments: str, environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "localllm", *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=50, check=False)


def test_it_is_listed_with_its_distribution(environment: dict[str, str], tmp_path: Path) -> None:
    done = localllm("plugins", environment=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("echo ")]
    assert line.split(maxsplit=3)[:3] == ["echo", "yes", "localllm-echo"]
    assert "0.3.0" in line
    assert "register_routes" in line


def test_its_settings_are_checked(environment: dict[str, str], tmp_path: Path) -> None:
    environment["LOCALLLM_PLUGIN_ECHO_CONTEXT_LENGTH"] = "1"
    done = localllm("check", "--set", "plugin.echo.prefixes=x", environment=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert sorted(done.stderr.splitlines()) == [
        "--set plugin.echo.prefixes: unknown key; did you mean plugin.echo.prefix?",
        "LOCALLLM_PLUGIN_ECHO_CONTEXT_LENGTH (plugin.echo.context_length): must be at least 8, not 1",
    ]


def test_it_is_not_even_imported_when_it_is_not_enabled(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "localllm.toml").write_text("")
    program = (
        "import sys; from localllm.plugin_manager import load_plugins; load_plugins();"
        "print('localllm_echo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_its_decoder_keeps_the_contract(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SOURCE)
    engine = importlib.import_module("localllm_echo.engine")
    decoder = engine.EchoDecoder(Capabilities(context_length=100, n_cells=400, n_seq_max=4, n_batch=64))
    check(decoder, tuple(b"a prompt of some length, with words in it"))


@pytest.fixture
def server(environment: dict[str, str], tmp_path: Path) -> Iterator[httpx.Client]:
    process = subprocess.Popen(
        [sys.executable, "-m", "localllm", "serve"], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        announced = process.stdout.readline()
        address = next(word for word in announced.split() if word.startswith("http://"))
        with httpx.Client(base_url=address, timeout=30) as client:
            yield client
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.mark.process
def test_its_endpoint_and_its_engine_answer(server: httpx.Client) -> None:
    assert server.post("/v1/echo", json={"text": "hello"}).json() == {"text": "> hello"}

    refused = server.post("/v1/echo", json={"text": 1})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "text")

    messages = [{"role": "user", "content": "Grüß Gott"}]
    for model in ("echo", "parrot", "polly"):
        answer = server.post("/v1/chat/completions", json={"model": model, "messages": messages}).json()
        assert answer["choices"][0]["message"]["content"] == "Grüß Gott"
    asked = {"model": "echo", "messages": messages, "logprobs": True, "top_logprobs": 2}
    (choice,) = server.post("/v1/chat/completions", json=asked).json()["choices"]
    assert [token["logprob"] for token in choice["logprobs"]["content"]] == [0.0] * len("Grüß Gott".encode())
    models = {entry["id"]: entry["max_model_len"] for entry in server.get("/v1/models").json()["data"]}
    assert models == {"echo": 64, "parrot": 32}
