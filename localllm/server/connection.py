"""One HTTP/1.1 connection: Hypercorn's, with HTTP/2 and WebSockets left out and a way to cut off a dead reader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import h11
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Request as RequestEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from starlette.types import Scope

from localllm.contract.errors import LocalLLMError
from localllm.server.errors import HeadersTooLargeError, MalformedRequestError, error_response

HEADER_TIMEOUT_SECONDS = 10.0
"""Time for the rest of a request's header once its first byte has come. Idle connections may wait much longer."""

_ABORT = "localllm.abort"


def abort_connection(scope: Scope) -> None:
    """Cut the connection of a request, unsent data and all. Without effect under a foreign server or test client."""
    abort: Callable[[], None] | None = scope.get("state", {}).get(_ABORT)
    if abort is not None:
        abort()


class Http1Protocol(H11Protocol):
    """HTTP/1.0 and 1.1 only. Hypercorn alone would also speak cleartext HTTP/2 to whoever begins with its preface."""

    on_partial_header: Callable[[], Awaitable[None]]
    _in_header = False

    async def handle(self, event: Event) -> None:
        """Take bytes from the socket, or its end."""
        await super().handle(event)
        if isinstance(event, RawData):
            waiting = self.stream is None and self.connection.their_state is h11.IDLE
            partial = waiting and bool(self.connection.trailing_data[0])
            if partial and not self._in_header:
                await self.on_partial_header()
            self._in_header = partial

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignore ``Upgrade: h2c``, as a server may (RFC 9110, 7.8); the base class would switch over."""

    async def _create_stream(self, request: h11.Request) -> None:
        if request.http_version not in {b"1.0", b"1.1"}:
            await self._send_error_response(505)
            await self.send(Closed())
            return
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            RequestEvent(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def _send_error_response(self, status_code: int) -> None:
        """Answer what h11 could not read in the shape of all our errors; the base class sends no body."""
        error: LocalLLMError = MalformedRequestError(_REASONS.get(status_code, "The request is not valid HTTP/1.1."))
        if status_code == HEADERS_TOO_LARGE:
            error = HeadersTooLargeError("The request's header is too large.")
        response = error_response(error, status=status_code)
        headers = [*response.raw_headers, *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=bytes(response.body)))
        await self._send_h11_event(h11.EndOfMessage())


HEADERS_TOO_LARGE = 431
_REASONS = {
    501: "The only transfer encoding that this server reads is chunked.",
    505: "This server speaks HTTP/1.0 and HTTP/1.1 only.",
}


class Connection(TCPServer):
    """Hypercorn's connection with the protocol above. Relies on the parts of Hypercorn 0.18 that are imported here."""

    async def run(self) -> None:
        """Serve requests until either side closes."""
        try:
            socket = self.writer.get_extra_info("socket")
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with TaskGroup(self.loop) as task_group:
                self._task_group = task_group
                state = ConnectionState({**self.state, _ABORT: self.abort})
                protocol = Http1Protocol(
                    self.app,
                    self.config,
                    self.context,
                    task_group,
                    state,
                    False,
                    client,
                    server,
                    self.protocol_send,
                )
                protocol.on_partial_header = self._on_partial_header
                self.protocol = protocol  # type: ignore[assignment]
                await protocol.initiate()
                await self.idle_task.restart(task_group, self._idle_timeout)
                await self._read_data()
        except OSError:
            pass  # the peer has gone; there is nobody to tell
        finally:
            await self._close()

    def abort(self) -> None:
        """Close the socket at once and forget what is not sent yet."""
        self.writer.transport.abort()

    async def _on_partial_header(self) -> None:
        await self.idle_task.restart(self._task_group, self._header_timeout)

    async def _header_timeout(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.context.terminated.wait(), HEADER_TIMEOUT_SECONDS)
        await asyncio.shield(self._initiate_server_close())
