"""The listening socket and its connections: opened once, closed within a bounded time."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config as HypercornConfig
from starlette.types import ASGIApp

from localllm.server.connection import Connection
from localllm.server.middleware.request_guard import MAX_HEADER_BYTES

BACKLOG = 1024
KEEP_ALIVE_SECONDS = 75.0
"""Longer than clients keep idle connections in their pools, so that it is they who close, and no request is lost."""


class BindError(Exception):
    """The address can't be listened on; the message is for the person who chose it."""


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port`` (0: any free one). Raises :class:`BindError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        message = f"can't listen on {host!r}: {error.strerror or error}; set server.host to an address of this machine"
        raise BindError(message) from None
    # A name like localhost may have both kinds of address; IPv4 is what clients try when told 127.0.0.1.
    family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # on Windows it would allow two servers on one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise BindError(_why_not(host, port, error)) from None
    listening.setblocking(False)
    return listening


def _why_not(host: str, port: int, error: OSError) -> str:
    where = f"can't listen on {host}:{port}: "
    if error.errno == errno.EADDRINUSE:
        return f"{where}another program does already; stop it, or choose another port with --port"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"{where}not permitted; choose a port above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}no such address on this machine; set server.host to one that it has"
    return f"{where}{error.strerror or error}"


class Listener:
    """Accepts connections and serves ``app`` on them. Event loop only.

    Takes Hypercorn's connections, but not its ``serve``: that waits for open connections without a limit from
    Python 3.12 on (hypercorn issue 308), and offers neither HTTP/1.1 alone nor a way to cut off a dead reader.
    """

    def __init__(self, app: ASGIApp, listening: socket.socket, *, logger: logging.Logger) -> None:
        self._app = ASGIWrapper(app)  # type: ignore[arg-type]
        self._socket = listening
        self._logger = logger
        self._config = _hypercorn_config(logger)
        self._context = WorkerContext(None)
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are really listened on."""
        name = self._socket.getsockname()
        return name[0], name[1]

    @property
    def open_connections(self) -> int:
        """Connections that are open, idle ones too."""
        return len(self._connections)

    async def start(self) -> None:
        """Begin to accept; clients that came since ``open_socket`` have been waiting in the backlog."""
        self._server = await asyncio.start_server(self._serve, sock=self._socket, backlog=BACKLOG)

    async def close(self, grace_seconds: float) -> None:
        """Stop accepting, close idle connections, and cut those that are still open after ``grace_seconds``."""
        if self._server is not None:
            self._server.close()
        await self._context.terminated.set()
        await self._wait(grace_seconds)
        for connection in self._connections.values():
            connection.abort()
        await self._wait(grace_seconds)
        for task in self._connections:
            task.cancel()
        await self._wait(grace_seconds)

    async def _wait(self, seconds: float) -> None:
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=seconds)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        connection = Connection(self._app, loop, self._config, self._context, {}, reader, writer)
        if task is not None:
            self._connections[task] = connection
        try:
            await connection.run()
        except (Exception, BaseExceptionGroup):
            # The app's errors end in its error layer; what comes here is the protocol's own.
            self._logger.exception("a connection ended by an unexpected error")
            connection.abort()
        finally:
            if task is not None:
                self._connections.pop(task, None)


def _hypercorn_config(logger: logging.Logger) -> HypercornConfig:
    config = HypercornConfig()
    config.errorlog = logger
    config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    return config
