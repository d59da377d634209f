"""A server of our own on a free port, for a command that needs one where none runs; it ends with the command."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from localllm.cli.api import ServerApi, ServerUnreachableError

END_SECONDS = 15.0
_SHOWN_LINES = 5
_BANNER = re.compile(r"listening on (http://\S+)")


@contextmanager
def background_server(config: Path | None, overrides: Sequence[str], key: str | None) -> Iterator[ServerApi]:
    """Start a server with this configuration on loopback, wait until it answers, and end it after the block.

    It is told to end when its stdin does, and so goes with us even when we are killed.
    Raises :class:`ServerUnreachableError` with its last words when it does not start.
    """
    command = [sys.executable, "-m", "localllm", "serve", "--until-eof"]
    command += ["--config", str(config)] if config is not None else []
    for flag in (*overrides, "server.host=127.0.0.1", "server.port=0"):
        command += ["--set", flag]
    with tempfile.TemporaryFile() as log:
        # In a session of its own, for Ctrl-C is meant for the command.
        child = subprocess.Popen(  # noqa: S603 - our own interpreter, a fixed program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
        try:
            yield ServerApi(_wait_for_banner(child, log), key)
        finally:
            _end(child)


def _wait_for_banner(child: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    for line in child.stdout or ():
        found = _BANNER.search(line.decode("utf-8", "replace"))
        if found:
            return found[1]
    code = child.wait()
    log.seek(0)
    last = log.read().decode("utf-8", "replace").strip().splitlines()[-_SHOWN_LINES:]
    message = "\n".join([f"a server of our own did not start (exit code {code}):", *last])
    raise ServerUnreachableError(message)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout is not None:
        child.stdout.close()
