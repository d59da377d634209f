"""Runs one pull in a child process, so that neither its libraries nor its sockets ever live in the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from localllm.contract.errors import LocalLLMError
from localllm.contract.fetch import PullError, PullProgress, PullResult, PullStatus
from localllm.models.fetch.job import PullJob

FETCH_ARGV = (sys.executable, "-P", "-m", "localllm.models.fetch")

_OWN_PREFIX = "LOCALLLM_"
_LINE_BYTES = 1024 * 1024
_LAST_WORDS_BYTES = 8192
_LAST_LINE_CHARACTERS = 500
_LAST_WORDS_SECONDS = 0.5  # for what still lies in the pipe
_END_SECONDS = 3.0

_logger = logging.getLogger("localllm.models")


async def fetch_in_process(
    job: PullJob, update: Callable[[PullProgress], None], *, argv: tuple[str, ...] = FETCH_ARGV
) -> PullResult:
    """Do the pull and return what it brought; ``update`` gets every moment of it.

    A cancellation ends the process, which is gone when this returns or raises. Raises ``LocalLLMError``.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
            env=fetch_environment(os.environ),
        )
    except OSError as error:
        message = f"The fetching process could not be started ({argv[0]}): {error.strerror or error}."
        raise PullError(message) from error
    last_words = asyncio.create_task(_last_words(process))
    try:
        outcome = await _converse(process, job, update)
    finally:
        await _end(process)
        done, _ = await asyncio.wait({last_words}, timeout=_LAST_WORDS_SECONDS)
        last_words.cancel()
    if outcome is not None:
        return outcome
    said = last_words.result() if done else ""
    message = f"The fetching process ended by itself (exit code {process.returncode}): {said or 'it said nothing'}."
    raise PullError(message)


async def _converse(
    process: asyncio.subprocess.Process, job: PullJob, update: Callable[[PullProgress], None]
) -> PullResult | None:
    """Return the result, None when the process ended without one. Raises the error that it tells."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(ConnectionError):  # it died at once: its end says why
        process.stdin.write(json.dumps(job.to_plain()).encode() + b"\n")
        await process.stdin.drain()
    try:
        while line := await process.stdout.readline():
            message = json.loads(line)
            if "progress" in message:
                update(_progress(message["progress"]))
            elif "result" in message:
                return PullResult.from_plain(message["result"])
            else:
                raise LocalLLMError.from_wire(message["error"])
    except (ValueError, KeyError, TypeError) as error:
        text = f"The fetching process wrote something that can't be understood: {error}."
        raise PullError(text) from error
    return None


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """Return the last line of stderr; what comes is read in any case, so that the process is never held up by it."""
    assert process.stderr is not None
    tail = b""
    while data := await process.stderr.read(4096):
        tail = (tail + data)[-_LAST_WORDS_BYTES:]
    lines = tail.decode("utf-8", "replace").strip().splitlines()
    if lines:
        _logger.debug("a fetching process wrote: %s", "\n".join(lines))
    return lines[-1].strip()[:_LAST_LINE_CHARACTERS] if lines else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    """Return when the process is gone: by itself, or asked, or forced. Shielded, for it must not outlive us."""
    if process.stdin is not None:
        process.stdin.close()  # its end is a request to leave, too
    if await _gone(process, _END_SECONDS):
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    if await _gone(process, _END_SECONDS):
        return
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await _gone(process, _END_SECONDS)


async def _gone(process: asyncio.subprocess.Process, seconds: float) -> bool:
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), seconds)
    except TimeoutError:
        return False
    return True


def fetch_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the process inherits: certificates and tokens of hubs, and none of our own secrets.

    Libraries of hubs report nothing of us to anybody.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith(_OWN_PREFIX)}
    return kept | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}


def _progress(data: Mapping[str, Any]) -> PullProgress:
    return PullProgress(**{**data, "status": PullStatus(data["status"])})
