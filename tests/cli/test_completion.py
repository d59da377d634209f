"""What a shell is offered for a model's name while a command is typed: names and nothing else, whatever is wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from localllm.cli import app
from localllm.testing.tiny_model import write_tiny_llama
from tests.stub_server import Stub

MODELS: list[dict[str, Any]] = [
    {"id": "tiny", "loaded": True, "aliases": ["talk", "gpt-4o"]},
    {"id": "org/tall", "loaded": False, "aliases": ["tall"]},
    {"id": "two\nlines", "loaded": True, "aliases": []},
]


@pytest.fixture(autouse=True)
def home(home: Path, silent_port: int) -> Path:
    """A folder with one model and no server."""
    write_tiny_llama(home / "models" / "chat" / "local.gguf")
    config = f'[server]\nport = {silent_port}\n[models.define.local]\naliases = ["loud"]\n'
    (home / "localllm.toml").write_text(config, encoding="utf-8")
    return home


@pytest.fixture
def stub(stub: Stub) -> Stub:
    stub.answers["GET /v1/models"] = 200, {"data": MODELS}
    return stub


def offered(*words: str) -> list[str]:
    """Return what is offered for the last word, as bash asks for it. Anything on stderr would be seen by the user."""
    line = ["localllm", *words]
    environment = {
        "_LOCALLLM_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
    }
    result = CliRunner().invoke(app, [], prog_name="localllm", env=environment, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize("command", [("models", "load"), ("models", "show"), ("models", "rm"), ("chat", "--model")])
def test_without_a_server_the_catalogue_tells(command: tuple[str, ...]) -> None:
    assert offered(*command, "") == ["local"]
    assert offered(*command, "lo") == ["local", "loud"]
    assert offered(*command, "x") == []


@pytest.mark.parametrize("command", [("models", "load"), ("chat", "-m")])
def test_a_running_server_tells_its_models(stub: Stub, command: tuple[str, ...]) -> None:
    given = (*command[:-1], "--url", stub.url, command[-1]) if command[0] == "chat" else (*command, "--url", stub.url)
    assert offered(*given, "") == ["org/tall", "tiny"]
    assert offered(*given, "t") == ["talk", "tall", "tiny"]


def test_what_is_loaded_can_be_unloaded(stub: Stub) -> None:
    assert offered("models", "unload", "--url", stub.url, "") == ["tiny"]
    assert offered("models", "unload", "--url", stub.url, "t") == ["talk", "tiny"]


def test_the_server_is_the_configurations_with_its_key(stub: Stub, home: Path) -> None:
    stub.key = "k" * 20
    port = stub.url.rpartition(":")[2]
    (home / "other.toml").write_text(f'[server]\nport = {port}\napi_keys = ["{stub.key}"]\n', encoding="utf-8")
    assert offered("models", "show", "--config", "other.toml", "") == ["org/tall", "tiny"]
    assert offered("models", "show", "--set", f"server.port={port}", "") == ["local"], "without the key it refuses"


@pytest.mark.parametrize("answer", [b"<html>", {"data": [{"name": 5}]}, {"data": 7}, {"data": [{"id": 5}]}])
def test_an_answer_that_makes_no_sense_is_no_reason_to_complain(stub: Stub, answer: Any) -> None:
    stub.answers["GET /v1/models"] = 200, answer
    assert offered("models", "show", "--url", stub.url, "") in ([], ["local"])


def test_a_server_that_never_answers_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert offered("models", "show", "--url", url, "") == ["local"]


@pytest.mark.parametrize(
    "config", ["port = [", "[server]\nport = 'x'", "[server]\nport = PORT\n[models]\nbackend = 'none'"]
)
def test_a_wrong_configuration_offers_nothing(home: Path, silent_port: int, config: str) -> None:
    text = config.replace("PORT", str(silent_port))  # where no server runs that would know of models
    (home / "localllm.toml").write_text(text, encoding="utf-8")
    assert offered("models", "show", "") == []
    assert offered("models", "load", "--config", "missing.toml", "") == []


def test_a_shell_gets_its_answer_without_what_serving_needs(stub: Stub) -> None:
    """The real command: what is heavy is not imported, and a running server is asked instead of the disk."""
    heavy = [
        "starlette",
        "uvicorn",
        "orjson",
        "numpy",
        "llama_cpp",
        "jinja2",
        "localllm.openai",
        "localllm.models.catalog",
    ]
    program = f"""
import sys
from localllm.cli import main
sys.argv = ["localllm"]
try:
    main()
finally:
    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    words = f"localllm models load --url {stub.url} ti"
    environment = {"_LOCALLLM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "5"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tiny"]
    assert done.stderr == "[]\n"
