"""A server of few words for tests of commands: says what it was told to, and notes what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = [
    {"id": "tiny", "type": "chat", "state": "ready", "aliases": ["t"], "status": {"in_flight": 1, "waiting": 2}},
    {"id": "other", "type": "embedding", "state": "unloaded", "aliases": []},
]


@dataclass
class Stub:
    """``answers`` are (status, JSON) by "METHOD path". A chat answers ``pieces``; ``hold`` keeps it from ending."""

    url: str = ""
    key: str | None = None
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=lambda: ["Hel", "lo"])
    thoughts: list[str] = field(default_factory=list)
    hold: bool = False
    told: dict[str, Any] = field(default_factory=dict)  # what the first event of a chat says besides
    streams: dict[str, list[Any]] = field(default_factory=dict)  # events of other paths
    then: dict[str, dict[str, tuple[int, Any]]] = field(
        default_factory=dict
    )  # answers after a request changed something
    asked: list[tuple[str, Any]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # somebody left a held answer


class _Server(ThreadingHTTPServer):
    def __init__(self, stub: Stub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stub = stub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_DELETE(self) -> None:
        self._answer(None)

    def _answer(self, body: Any) -> None:
        stub = self.server.stub
        stub.asked.append((f"{self.command} {self.path}", body))
        if stub.key and self.headers["Authorization"] != f"Bearer {stub.key}":
            self._json(401, {"error": {"message": "a key is needed", "code": "invalid_api_key"}})
        elif self.path == "/v1/chat/completions" and f"POST {self.path}" not in stub.answers:
            stub.bodies.append(body)
            self._stream(stub)
        elif self.path in stub.streams:
            self._begin_stream()
            for event in stub.streams[self.path]:
                self._event(event)
            self.wfile.write(b"data: [DONE]\n\n")
        else:
            missing = 404, {"error": {"message": "no such thing", "code": "not_found"}}
            answer = stub.answers.get(f"{self.command} {self.path}", missing)
            stub.answers |= stub.then.get(f"{self.command} {self.path}", {})
            self._json(*answer)

    def _json(self, status: int, body: Any) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def _stream(self, stub: Stub) -> None:
        self._begin_stream()
        if stub.told:
            self._event({"choices": [], **stub.told})
        for name, pieces in (("reasoning_content", stub.thoughts), ("content", stub.pieces)):
            for piece in pieces:
                self._event({"choices": [{"delta": {name: piece}}]})
        if stub.hold:
            self.rfile.read(1)  # returns when the client closes
            stub.left.set()
            return
        self._event({"choices": []})
        self.wfile.write(b": ping\n\ndata: [DONE]\n\n")

    def _event(self, event: Mapping[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def stub_server() -> Iterator[Stub]:
    """Serve on a free port of loopback."""
    stub = Stub(answers={"GET /health": (200, {"status": "ok"}), "GET /v1/models": (200, {"data": MODELS})})
    server = _Server(stub)
    stub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
