"""The two sides of a comparison as child processes: the bare loop, and ``localllm serve``."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import client
from benchmarks.models import WORK

_SETTLED_SECONDS = 4.0  # without a move; the first one comes 2 seconds after loading


class MeasuringChild:
    """A child that keeps a model loaded and answers one JSON command a line with one JSON line of figures."""

    def __init__(self, module: str, *arguments: object) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **command: Any) -> dict[str, float]:  # noqa: ANN401
        """Run one command and return its figures."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(command) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            message = f"the bare loop ended with {self._child.wait()}"
            raise RuntimeError(message)
        result: dict[str, float] = json.loads(line)
        return result

    def close(self) -> None:
        """End the child."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()


class LimitProcess(MeasuringChild):
    """The bare decode loop (``benchmarks.limit``), one command at a time."""

    def __init__(self, model: Path, n_vocab: int, threads: int) -> None:
        super().__init__("benchmarks.limit", model, n_vocab, threads)

    def both(self, name: str, **arguments: Any) -> dict[bool, float]:  # noqa: ANN401
        """Return the seconds of one measurement of ``limit.Limit`` in either layout, by "unified"."""
        return {
            unified: next(iter(self.ask(name=name, unified=unified, **arguments).values())) for unified in (False, True)
        }


@dataclass(slots=True)
class Server:
    """A running ``localllm serve`` with a configuration of its own."""

    process: subprocess.Popen[bytes]
    port: int
    seconds_to_health: float

    def resident_bytes(self) -> int:
        """Resident memory of the server process alone, without its workers."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def wait_until_settled(self) -> None:
        """Wait until its worker, which has just been loaded, has moved its weights where they are to stay."""
        moved, since = -1, time.monotonic()
        while time.monotonic() - since < _SETTLED_SECONDS:
            if (now := self._huge_bytes()) != moved:
                moved, since = now, time.monotonic()
            time.sleep(0.2)

    def _huge_bytes(self) -> int:
        children = [Path("/proc") / pid for path in self._children() for pid in path.read_text().split()]
        lines = [line for child in children for line in (child / "smaps_rollup").read_text().splitlines()]
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("AnonHugePages:"))

    def _children(self) -> Iterator[Path]:
        return Path(f"/proc/{self.process.pid}/task").glob("*/children")

    def close(self) -> None:
        """Stop the server and wait for it."""
        self.process.terminate()
        self.process.wait(60)


def start_server(
    model: Path,
    threads: int,
    *,
    encoder: Path | None = None,
    models: Mapping[str, object] | None = None,
    **settings: object,
) -> Server:
    """Start ``localllm serve`` on a free port and wait until ``/health`` answers.

    ``encoder`` embeds and ranks, ``models`` are keys of that section, ``settings`` the engine's.
    """
    port = _free_port()
    lines = ["[server]", f"port = {port}", "[models]", f'directory = "{WORK / "models"}"']
    lines.append(f'default = "{model.stem}"')
    lines += [f"{key} = {json.dumps(value)}" for key, value in (models or {}).items()]
    if encoder is not None:
        lines += [f'{key} = "{encoder.stem}"' for key in ("default_embedding", "default_reranker")]
    lines.append(f"[plugin.llama_cpp]\nthreads = {threads}\nthreads_batch = {threads}")
    lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    config = WORK / f"bench-{port}.toml"
    config.write_text("\n".join(lines) + "\n")
    started = time.perf_counter()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LOCALLLM_")}
    command = [sys.executable, "-m", "localllm", "serve", "--config", str(config)]
    with (WORK / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
    while True:
        try:
            if asyncio.run(client.get(port, "/health")) == 200:
                break
        except OSError:
            if process.poll() is not None:
                message = f"localllm serve ended with {process.returncode}: {(WORK / 'server.log').read_text()[-2000:]}"
                raise RuntimeError(message) from None
            time.sleep(0.005)
    seconds = time.perf_counter() - started
    config.unlink()
    return Server(process, port, seconds)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
