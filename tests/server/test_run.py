"""The server as a process: start, banner, signals, exit codes, and how little it imports."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import stat
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from localllm.server.listener import BindError, open_socket
from tests.server.kit import Raw, run, statuses

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.process


@asynccontextmanager
async def server(state: Path, **settings: Any) -> AsyncIterator[Process]:
    arguments = [str(state), json.dumps({"port": 0, **settings})]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.server.serve_scripted", *arguments, cwd=ROOT, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class At:
    """Stands in for a listener: where to connect."""

    def __init__(self, banner: bytes) -> None:
        self.address = ("127.0.0.1", int(banner.split(b"://")[1].split(b" ")[0].rsplit(b":", 1)[1]))


async def stream(process: Process) -> tuple[At, Raw]:
    at = At(await process.stdout.readline())  # type: ignore[union-attr]
    raw = await Raw.connect(at)  # type: ignore[arg-type]
    await raw.post("/stream")
    await raw.until(b'"lo"}\n\n')
    return at, raw


async def outcome(process: Process) -> tuple[int | None, str, str]:
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_start_serve_stop(tmp_path: Path, number: signal.Signals) -> None:
    state = tmp_path / "deep" / "state"

    async def scenario() -> None:
        async with server(state) as process:
            banner = await process.stdout.readline()  # type: ignore[union-attr]
            assert banner.startswith(b"localllm ")
            assert banner.endswith(b" (default model demo)\n")
            raw = await Raw.connect(At(banner))  # type: ignore[arg-type]
            await raw.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert statuses(await raw.until(b"}")) == [200]
            process.send_signal(number)  # with an idle connection open
            code, out, err = await outcome(process)
            raw.abort()
            assert (code, out) == (0, "running=True closed=True open=0\n")
            assert "shutting down" in err
            assert "Traceback" not in err

    run(scenario())
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_sigterm_says_goodbye_to_open_streams(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server(tmp_path, shutdown_seconds=2) as process:
            at, raw = await stream(process)
            process.send_signal(signal.SIGTERM)
            late = await Raw.connect(at)  # type: ignore[arg-type]
            farewell = await raw.rest()
            assert b'"code":"service_unavailable"' in farewell
            assert farewell.endswith(b"0\r\n\r\n")
            code, out, err = await outcome(process)
            late.abort()
            raw.abort()
            assert (code, out) == (0, "running=True closed=True open=0\n")
            assert "Traceback" not in err

    run(scenario())


def test_a_second_signal_ends_the_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server(tmp_path, shutdown_seconds=3600) as process:
            _, raw = await stream(process)
            process.send_signal(signal.SIGTERM)
            async for line in process.stderr:  # type: ignore[union-attr]
                if b"shutting down" in line:
                    break
            process.send_signal(signal.SIGINT)
            assert b'"code":"service_unavailable"' in await raw.rest()
            code, out, _ = await outcome(process)
            raw.abort()
            assert (code, out) == (0, "running=True closed=True open=0\n")

    run(scenario())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"host": "0.0.0.0"}, "there are no API keys"),
        ({"host": "no.such.host.invalid"}, "server.host"),
        ({"host": "203.0.113.7", "api_keys": ["k"]}, "no such address on this machine"),
    ],
)
def test_reasons_not_to_start(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    async def scenario() -> tuple[int | None, str, str]:
        async with server(
            tmp_path, **{"allow_public_without_key": "invalid" in settings["host"], **settings}
        ) as process:
            return await outcome(process)

    code, out, err = run(scenario())
    assert code == 1
    assert sentence in err
    assert err.startswith("localllm: ")
    assert len(err.splitlines()) == 1
    assert "listening" not in out


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=f"127.0.0.1:{port}: another program"):
            open_socket("127.0.0.1", port)


def test_a_state_directory_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    async def scenario() -> tuple[int | None, str, str]:
        async with server(tmp_path / "file" / "state") as process:
            return await outcome(process)

    code, _, err = run(scenario())
    assert code == 1
    assert "state directory" in err


def test_the_server_imports_no_engine_and_no_client() -> None:
    code = (
        "import sys, localllm.server.run, localllm.host.registry, localllm.models.catalog, localllm.plugin_manager;"
        "names = {name.partition('.')[0] for name in sys.modules};"
        "heavy = {'llama_cpp', 'llguidance', 'numpy', 'jinja2', 'httpx', 'typer', 'rich'};"
        "heavy |= {'huggingface_hub', 'pydantic'};"
        "print(sorted(names & heavy))"
    )

    async def scenario() -> bytes:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdout=PIPE)
        return (await process.communicate())[0]

    assert run(scenario()) == b"[]\n"
