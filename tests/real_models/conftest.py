"""Real server processes on real ports, with the bundled models and the real engine."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTENING = re.compile(r"listening on (http://\S+)")


@dataclass(frozen=True)
class RunningServer:
    """A server that answers. ``log`` holds the lines that it wrote so far, newest last."""

    pid: int
    url: str
    api_key: str
    log: list[str]

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"


class _Output:
    """Reads both outputs of a process to their ends, so that it never waits for a full pipe."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self.url: str | None = None
        self._decided = threading.Event()  # listening, or never will
        self._threads = [threading.Thread(target=self._read, args=(pipe,)) for pipe in (process.stdout, process.stderr)]
        for thread in self._threads:
            thread.start()

    def wait_until_listening(self, seconds: float) -> str:
        self._decided.wait(seconds)
        if self.url is None:
            raise RuntimeError("the server did not start:\n" + "\n".join(self.lines))
        return self.url

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)

    def _read(self, pipe: Iterator[str]) -> None:
        for line in pipe:
            self.lines.append(line.rstrip("\n"))
            found = LISTENING.search(line)
            if found:
                self.url = found[1]
                self._decided.set()
        self._decided.set()


@contextmanager
def running_server(
    directory: Path,
    *,
    api_key: str = "",
    models: Path = ROOT / "models",
    models_keys: str = "",
    define: str = "",
    aliases: Sequence[str] = ("org/name:Q4",),
) -> Iterator[RunningServer]:
    """Start ``localllm serve`` on a free port and end it by SIGTERM; all files that it writes go to ``directory``.

    ``models_keys`` is TOML with further keys of ``[models]``, ``define`` with further models, ``aliases`` are further
    names of the demo chat model.
    """
    config = directory / "localllm.toml"
    keys = f'api_keys = ["{api_key}"]\n' if api_key else ""
    config.write_text(
        f'state_directory = "state"\n[server]\nport = 0\nshutdown_seconds = 1\n{keys}'
        f'[models]\ndirectory = "{models}"\ndefault = "localllm-demo"\n{models_keys}'
        f"[models.define.localllm-demo]\naliases = {list(aliases)}\n"
        # On cores that others use too, llama.cpp's threads wait for each other longer than they work.
        "[plugin.llama_cpp]\nthreads = 1\nthreads_batch = 1\n" + define,
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "localllm", "serve", "--config", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
    )
    with process:
        output = _Output(process)
        try:
            yield RunningServer(process.pid, output.wait_until_listening(30), api_key, output.lines)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            output.join()


@pytest.fixture(scope="session")
def demo_model() -> Path:
    return ROOT / "models" / "chat" / "localllm-demo.gguf"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all tests that only talk to it."""
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that asks for a key."""
    with running_server(tmp_path_factory.mktemp("guarded"), api_key="sk-test-0123456789abcdef") as running:
        yield running
