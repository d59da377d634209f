"""What the tests of the command line share: an empty folder to run in, and a server that answers as it is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stub_server import Stub, stub_server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that is taken, but on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def nobody_serves(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep away from a server that may run on this machine."""
    monkeypatch.setenv("LOCALLLM_SERVER_PORT", str(silent_port))


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_server() as found:
        yield found
