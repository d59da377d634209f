"""One server whose demo models have the names that the five manuals use, so that requests can be sent as printed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.real_models.conftest import RunningServer, running_server

CHAT_NAMES = (
    "tinyllama-1.1b",
    "EvaGPT-German-X-LlamaTok-DE-7B-f16",
    "phi3-mini-4k",
    "Llama-3.2-1B-Instruct-Q4_K_M",
    "llama3.2",
)
POOLING_NAMES = """
[models.define.localllm-demo-embed]
aliases = ["all-MiniLM-L6-v2.Q4_K_M"]
[models.define.localllm-demo-rerank]
aliases = ["bge-reranker-v2-m3-Q8_0"]
"""
NODE_FOLDER = Path(sys.executable).parent.parent / "node"


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The server."""
    with running_server(tmp_path_factory.mktemp("seeds"), aliases=CHAT_NAMES, define=POOLING_NAMES) as running:
        yield running


@pytest.fixture
def http(seeds: RunningServer) -> Iterator[httpx.Client]:
    """A client that knows nothing but HTTP."""
    with httpx.Client(base_url=seeds.url, timeout=50) as client:
        yield client


@pytest.fixture
def run_python(seeds: RunningServer, tmp_path: Path) -> Callable[[str], str]:
    """Return what runs a printed Python example against the server, and returns what it prints."""

    def run(text: str) -> str:
        script = tmp_path / "example.py"
        script.write_text(at(seeds.url, text), encoding="utf-8")
        return finished([sys.executable, "-W", "error", str(script)], tmp_path)

    return run


@pytest.fixture
def run_node(seeds: RunningServer, tmp_path: Path) -> Callable[..., str]:
    """Return what runs a printed example in Node, as a CommonJS or (``name`` ends with .mjs) an ES module."""

    def run(text: str, name: str = "example.cjs") -> str:
        if not (NODE_FOLDER / "node_modules").is_dir():
            message = f"{NODE_FOLDER} lacks the packages of tests/seeds/node: run `make install-dev`"
            raise FileNotFoundError(message)
        (tmp_path / "node_modules").symlink_to(NODE_FOLDER / "node_modules", target_is_directory=True)
        (tmp_path / name).write_text(at(seeds.url, text), encoding="utf-8")
        return finished([str(Path(sys.executable).with_name("node")), name], tmp_path)

    return run


def at(url: str, text: str) -> str:
    """Return a printed text with the server's address in place of the printed one."""
    for printed in ("localhost:8000", "127.0.0.1:8000", "localhost:3000", "localhost:23673"):
        text = text.replace(f"http://{printed}", url)
    assert url in text
    return text


def finished(command: list[str], folder: Path) -> str:
    """Run a command to its end and return its output."""
    proxies = {"http_proxy", "https_proxy", "all_proxy"}
    environment = {name: value for name, value in os.environ.items() if name.lower() not in proxies}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=50, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
