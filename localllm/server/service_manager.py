"""Tells the service manager (systemd) how the server fares: ready, reloading, stopping, alive."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping

_ADDRESS = "NOTIFY_SOCKET"
_WATCHDOG_USEC = "WATCHDOG_USEC"
_WATCHDOG_PID = "WATCHDOG_PID"


class ServiceManager:
    """Sends datagrams as sd_notify(3) describes them; without a ``NOTIFY_SOCKET`` nothing is sent, nor lacking.

    ``environ`` is the process's environment, as the service manager made it.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        name = environ.get(_ADDRESS, "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name  # "@" stands for an abstract address
        self.watchdog_seconds = _watchdog_seconds(environ)
        self.status = "starting"

    def ready(self) -> None:
        """Requests are answered from now on, with the present configuration; :attr:`status` is for people."""
        self._send("READY=1", f"STATUS={self.status}")

    def reloading(self) -> None:
        """The configuration is being read again; :meth:`ready` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """No new requests are taken."""
        self._send("STOPPING=1", "STATUS=shutting down")

    async def keep_alive(self) -> None:
        """Say twice in each of the watchdog's periods that the event loop turns, until cancelled."""
        while self.watchdog_seconds is not None:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_seconds / 2)

    def _send(self, *lines: str) -> None:
        if not self._address or not hasattr(socket, "AF_UNIX"):
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.setblocking(False)  # a manager that does not listen must not hold the event loop
                sending.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return  # as sd_notify(3) advises: nobody listens, and the service runs all the same


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Return the watchdog's period; None without one, or when it is meant for another process."""
    period = environ.get(_WATCHDOG_USEC, "")
    if not period.isdigit() or environ.get(_WATCHDOG_PID, str(os.getpid())) != str(os.getpid()):
        return None
    return int(period) / 1_000_000 or None
