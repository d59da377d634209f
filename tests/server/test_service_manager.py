"""What systemd is told, received by a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.server.service_manager import ServiceManager
from tests.server.kit import run
from tests.server.test_reload import BASE, reloadable

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there is no systemd without Unix sockets")


class Manager:
    """Stands in for systemd: the socket, and the name of it that a service gets."""

    def __init__(self, address: str, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(30)

    def next(self) -> list[str]:
        return self._socket.recv(4096).decode().split("\n")

    async def later(self) -> list[str]:
        return await asyncio.to_thread(self.next)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"localllm-test-{secrets.token_hex(8)}"
    path = str(tmp_path / "notify")
    abstract = request.param == "abstract"
    found = Manager(f"\0{name}" if abstract else path, f"@{name}" if abstract else path)
    yield found
    found.close()


def test_each_state_is_one_datagram(manager: Manager) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager.name})
    service.status = "listening on http://127.0.0.1:8000"
    service.ready()
    assert manager.next() == ["READY=1", "STATUS=listening on http://127.0.0.1:8000"]
    service.reloading()
    kind, at = manager.next()
    assert kind == "RELOADING=1"
    assert re.fullmatch(r"MONOTONIC_USEC=\d+", at)
    service.stopping()
    assert manager.next() == ["STOPPING=1", "STATUS=shutting down"]


@pytest.mark.parametrize("name", ["", "/nowhere/at/all", "@nobody-listens-here"])
def test_nobody_listens_and_nothing_happens(name: str) -> None:
    ServiceManager({"NOTIFY_SOCKET": name}).ready()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdogs_period_is_ours_or_none(environ: dict[str, str], seconds: float | None) -> None:
    assert ServiceManager(environ).watchdog_seconds == seconds


@pytest.mark.process
def test_a_server_tells_its_whole_life(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"), str(tmp_path / "notify"))

    async def scenario() -> None:
        environ = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "2000000"}
        async with reloadable(tmp_path, BASE + "watch_config = false\n", **environ) as found:
            told: list[str] = []
            alive = 0

            async def until(state: str) -> None:
                nonlocal alive
                while not told or told[-1] != state:
                    first = (await manager.later())[0]
                    alive += first == "WATCHDOG=1"
                    if first != "WATCHDOG=1":
                        told.append(first)

            await until("READY=1")
            for _ in range(2):
                while (await manager.later())[0] != "WATCHDOG=1":
                    pass
            found.process.send_signal(signal.SIGHUP)
            await until("RELOADING=1")
            await until("READY=1")
            found.process.send_signal(signal.SIGTERM)
            await until("STOPPING=1")
            assert told == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
            assert await found.process.wait() == 0

    try:
        run(scenario())
    finally:
        manager.close()
