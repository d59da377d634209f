"""``localllm serve --reload``: a fresh server process for each change, and both processes gone at the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from localllm.cli.supervise import snapshot, source_folders
from tests.processes import ends_within

ROOT = Path(__file__).parents[2]
CONFIG = "[server]\nport = 0\nshutdown_seconds = 1\n[plugins]\nenabled = []\n"


def test_sources_are_the_cores_and_all_plugins() -> None:
    folders = {path.name for path in source_folders()}
    assert {"localllm", "localllm_chat", "localllm_llama_cpp"} <= folders
    found = snapshot(source_folders(), ROOT / "localllm.toml")
    assert {ROOT / "localllm" / "cli" / "supervise.py", ROOT / "localllm.toml"} <= set(found)
    assert ROOT / "plugins" / "localllm_chat" / "endpoint.py" in found


def test_every_kind_of_change_is_seen(tmp_path: Path) -> None:
    config, source = tmp_path / "c.toml", tmp_path / "pkg" / "deep" / "m.py"
    source.parent.mkdir(parents=True)
    seen = [snapshot([tmp_path / "pkg"], config)]
    source.write_text("a = 1")
    seen.append(snapshot([tmp_path / "pkg"], config))
    os.utime(source, ns=(1, 1))
    seen.append(snapshot([tmp_path / "pkg"], config))
    config.write_text("")
    seen.append(snapshot([tmp_path / "pkg"], config))
    (tmp_path / "pkg" / "notes.txt").write_text("no source")
    assert snapshot([tmp_path / "pkg"], config) == seen[-1]
    source.unlink()
    seen.append(snapshot([tmp_path / "pkg"], config))
    assert all(before != after for before, after in pairwise(seen))


class Supervised:
    """The supervisor and what it and its children print."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self, words: str) -> str:
        """Return the next line that has these words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words in line:
                return line
        raise AssertionError(f"the output ended before {words!r}")

    def child(self) -> int:
        """Return the process id of the present server."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        assert len(found) == 1
        return int(found[0])


@contextmanager
def supervised(folder: Path, text: str = CONFIG) -> Iterator[Supervised]:
    (folder / "localllm.toml").write_text(text)
    command = [sys.executable, "-m", "localllm", "serve", "--reload"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
    )
    with process:
        try:
            yield Supervised(process)
        finally:
            process.kill()


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are looked up in /proc")
def test_a_change_starts_the_server_again_and_an_interrupt_ends_both(tmp_path: Path) -> None:
    with supervised(tmp_path) as found:
        found.line("listening on")
        first = found.child()
        (tmp_path / "localllm.toml").write_text("[server\n")
        assert "localllm.toml changed" in found.line("changed")
        found.line("Expected ']'")
        found.line("the server ended with code 2; it starts again with a change")
        assert ends_within(first, 10)
        (tmp_path / "localllm.toml").write_text(CONFIG)
        found.line("localllm.toml changed")
        found.line("listening on")
        second = found.child()
        found.process.send_signal(signal.SIGINT)
        found.line("shutting down")
        assert found.process.wait(30) == 0
        assert ends_within(second, 10)


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are looked up in /proc")
def test_a_server_ends_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    with supervised(tmp_path) as found:
        assert re.search(r"listening on http://127\.0\.0\.1:\d+", found.line("listening on"))
        child = found.child()
        found.process.kill()
        assert ends_within(child, 20)
