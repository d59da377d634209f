"""``localllm serve --reload``: runs the server as a child and starts it again when its sources change."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import typer

from localllm.config.layers import DEFAULT_FILE
from localllm.plugin_discovery import find_plugins

POLL_SECONDS = 0.5
"""How often the files are looked at. A few hundred stats are nothing, and unlike the system's notifications they see
changes in containers and on network drives too."""

HURRY_SECONDS = 3.0
KILL_SECONDS = 10.0


def supervise(model: Path | None, config: Path | None, flags: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM, with a fresh process for each change. Return the exit code of the last one."""
    folders = list(source_folders())
    watched = (config or Path(DEFAULT_FILE)).absolute()
    return _Supervisor(_command(model, config, flags), lambda: snapshot(folders, watched)).run()


def _command(model: Path | None, config: Path | None, flags: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "localllm", "serve", "--until-eof"]
    command += [str(model)] if model is not None else []
    command += ["--config", str(config)] if config is not None else []
    for flag in (*flags, "server.watch_config=false"):  # a change of the file is a reason to start again, and no other
        command += ["--set", flag]
    return command


def source_folders() -> Iterator[Path]:
    """Yield the folders (or files) of the core's and of all installed plugins' packages, without importing a plugin."""
    names = {"localllm", *(source.entry_point.module.partition(".")[0] for source in find_plugins())}
    for name in sorted(names):
        found = importlib.util.find_spec(name)
        if found is not None and found.submodule_search_locations:
            yield from map(Path, found.submodule_search_locations)
        elif found is not None and found.origin:
            yield Path(found.origin)


def snapshot(folders: Iterable[Path], config: Path) -> dict[Path, int]:
    """Return the modification times of all Python files below ``folders``, and of the configuration."""
    times: dict[Path, int] = {}
    for folder in folders:
        for path in folder.rglob("*.py") if folder.is_dir() else [folder]:
            _note(path, times)
    _note(config, times)
    return times


def _note(path: Path, times: dict[Path, int]) -> None:
    try:
        times[path] = path.stat().st_mtime_ns
    except OSError:  # it has gone meanwhile, which is a change too
        return


class _Supervisor:
    """One child at a time. It has a process group of its own, so that Ctrl-C reaches it through us alone, once."""

    def __init__(self, command: Sequence[str], look: Callable[[], dict[Path, int]]) -> None:
        self._command = list(command)
        self._look = look
        self._stop = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while not self._stop.is_set():
                seen = self._look()
                self._child = child = subprocess.Popen(  # noqa: S603 - our own interpreter, a fixed program
                    self._command, stdin=subprocess.PIPE, start_new_session=True
                )
                if self._stop.is_set():  # the signal came before there was a child to pass it on to
                    child.terminate()
                self._wait_for_change(child, seen)
                self._end(child)
            return self._child.returncode if self._child is not None else 0
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()
        if self._child is not None:
            self._child.terminate()

    def _wait_for_change(self, child: subprocess.Popen[bytes], seen: dict[Path, int]) -> None:
        """Return when a file is another, or when we are to stop. A child that ends by itself waits to be mended."""
        told = False
        while not self._stop.wait(POLL_SECONDS):
            if child.poll() is not None and not told:
                typer.echo(f"the server ended with code {child.returncode}; it starts again with a change", err=True)
                told = True
            changed = _differing(seen, self._look())
            if changed:
                typer.echo(f"{changed[0]} changed; the server starts again", err=True)
                return

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        """End the child: a first request drains, a second one hurries, and then it is killed."""
        if not self._stop.is_set():
            child.terminate()
        while child.returncode is None:
            try:
                child.wait(None if self._stop.is_set() else HURRY_SECONDS)
            except subprocess.TimeoutExpired:
                child.terminate()
                self._wait_or_kill(child)
        if child.stdin is not None:
            child.stdin.close()

    def _wait_or_kill(self, child: subprocess.Popen[bytes]) -> None:
        try:
            child.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()


def _differing(before: dict[Path, int], after: dict[Path, int]) -> list[Path]:
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
