"""A file server that misbehaves on demand, and pulls whose clock, pauses and disk are the test's."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from localllm.contract.fetch import PullProgress, PullResult, RemoteFile, Resolution
from localllm.models.fetch.connection import Dialer
from localllm.models.fetch.job import FetchPolicy, PullJob
from localllm.models.fetch.pull import World, run_pull
from tests.models.raw_gguf import RawGguf, Tensor

ETAG = '"v1"'


def model_bytes(kilobytes: int = 64, *, fill: bytes = b"w", **pairs: Any) -> bytes:
    """Return a GGUF file whose header is right, of about so many bytes."""
    n_bytes = kilobytes * 1024
    gguf = RawGguf(tensors=[Tensor(shape=(n_bytes // 4,), n_bytes=n_bytes)]).with_pairs(**pairs)
    data = gguf.bytes()
    return data[:-n_bytes] + (fill * n_bytes)[:n_bytes]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Request:
    """One request as it arrived; header names in lower case."""

    path: str
    headers: dict[str, str]

    @property
    def offset(self) -> int | None:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else None


class Handler(BaseHTTPRequestHandler):
    """Hands every GET to the server's route for its path."""

    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        request = Request(self.path, {name.lower(): value for name, value in self.headers.items()})
        with self.server.lock:
            self.server.requests.append(request)
        self.close_connection = True
        self.server.answer(self, request)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def reset(self) -> None:
        """Break the connection off as a crash does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


Answer = Callable[[Handler, Request], None]


def serve_file(handler: Handler, request: Request, data: bytes, etag: str | None = ETAG, **extra: str) -> None:
    """Answer as a good server does: ranges, If-Range, lengths."""
    offset = request.offset
    same = request.headers.get("if-range") in (None, etag)
    headers = {**({"ETag": etag} if etag else {}), **extra}
    if offset is None or not same:
        handler.head(200, {"Content-Length": str(len(data)), **headers})
        handler.wfile.write(data)
    elif offset >= len(data):
        handler.head(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
    else:
        span = f"bytes {offset}-{len(data) - 1}/{len(data)}"
        handler.head(206, {"Content-Length": str(len(data) - offset), "Content-Range": span, **headers})
        handler.wfile.write(data[offset:])


def good(data: bytes, etag: str | None = ETAG, **extra: str) -> Answer:
    return lambda handler, request: serve_file(handler, request, data, etag, **extra)


def redirect(location: str, status: int = 302) -> Answer:
    return lambda handler, request: handler.head(status, {"Location": location, "Content-Length": "0"})


def status(code: int, **headers: str) -> Answer:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, request: handler.head(code, {"Content-Length": "0", **fields})


def breaking_off(data: bytes, after: int, etag: str | None = ETAG) -> Answer:
    """Send so many bytes of the answer and reset the connection."""

    def answer(handler: Handler, request: Request) -> None:
        offset = request.offset or 0
        code = 206 if offset else 200
        span = {"Content-Range": f"bytes {offset}-{len(data) - 1}/{len(data)}"} if offset else {}
        tag = {"ETag": etag} if etag else {}
        handler.head(code, {"Content-Length": str(len(data) - offset), **span, **tag})
        handler.wfile.write(data[offset:after])
        handler.reset()

    return answer


def in_turn(*answers: Answer) -> Answer:
    """Give one answer after the other; the last one for ever."""
    left = list(answers)

    def answer(handler: Handler, request: Request) -> None:
        now = left.pop(0) if len(left) > 1 else left[0]
        now(handler, request)

    return answer


class FileServer(ThreadingHTTPServer):
    """Serves ``routes`` by path on a free port of 127.0.0.1 and remembers the requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, Answer] = {}
        self.requests: list[Request] = []
        self.lock = threading.Lock()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, handler: Handler, request: Request) -> None:
        route = self.routes.get(request.path.partition("?")[0], status(404))
        try:
            route(handler, request)
        except OSError:  # the client has gone: most tests want that
            handler.close_connection = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that broke."""


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[FileServer]:
    server = FileServer()
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ListedSource:
    """A source that gives a fixed resolution."""

    def __init__(self, resolution: Resolution) -> None:
        self.resolution = resolution

    def resolve(self, reference: str) -> Resolution:
        return self.resolution


@dataclass
class Pulling:
    """Runs pulls into ``directory`` in this process; ``pauses`` are those that it made, ``seen`` what it reported."""

    directory: Path
    server: FileServer
    policy: FetchPolicy = field(
        default_factory=lambda: FetchPolicy(
            private_hosts=True, http_hosts=("127.0.0.1",), reserve_bytes=0, stall_seconds=5.0
        )
    )
    free_bytes: int = 1 << 40
    dialer: Callable[..., Dialer] = Dialer
    clock: Callable[[], float] = time.monotonic
    pauses: list[float] = field(default_factory=list)
    seen: list[PullProgress] = field(default_factory=list)
    trusted: tuple[str, ...] = ()

    def run(self, *files: RemoteFile, model_id: str | None = None, **changes: Any) -> PullResult:
        """Pull these files. ``changes`` are fields of the job, or of the policy."""
        policy = replace(self.policy, **{key: changes.pop(key) for key in list(changes) if hasattr(self.policy, key)})
        source = changes.pop("source", "test:model")
        job = PullJob(source, "model", "nowhere:make", str(self.directory), model_id=model_id, policy=policy, **changes)
        resolution = Resolution(files, "test:model@1", trusted_origins=self.trusted)
        world = World(lambda _: self.free_bytes, self.clock, self.pauses.append, self.dialer)
        return run_pull(job, self.seen.append, source=ListedSource(resolution), world=world)

    def pull(
        self, name: str = "tiny.gguf", *, digest: str | None = None, size: int | None = None, **more: Any
    ) -> PullResult:
        """Pull one file of the server."""
        file = RemoteFile(name, url=f"{self.server.origin}/{name}", sha256=digest, size_bytes=size)
        return self.run(file, **more)

    @property
    def parts(self) -> list[Path]:
        """What is kept for a later pull."""
        return sorted((self.directory / ".localllm").rglob("*.part"))

    @property
    def models(self) -> dict[str, bytes]:
        """All complete files by their path in the models' folder."""
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in sorted(self.directory.rglob("*.gguf"))
            if ".localllm" not in path.parts
        }
