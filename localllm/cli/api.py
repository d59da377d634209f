"""Talks to a running server over HTTP, with nothing but the standard library: commands must start quickly."""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 900.0
"""Longest silence that is borne: a model may be loading, for which the server has a limit of its own."""

MAX_ERROR_BYTES = 64 * 1024


class ServerUnreachableError(Exception):
    """Nothing answers at the address, or it breaks off, or it is no such server."""


class AnswerError(Exception):
    """The server answered with an error. ``code`` is its own word for it, or the HTTP status."""

    def __init__(self, message: str, code: str, detail: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.detail = dict(detail)


@dataclass(frozen=True, slots=True)
class ServerApi:
    """One server. ``url`` is its root, such as ``http://127.0.0.1:8000``; ``key`` is sent where it is not None.

    All methods raise :class:`ServerUnreachableError` and :class:`AnswerError`. Each request has its own connection;
    leaving early closes it, by which the server knows that nobody waits any more. ``silence_seconds`` is the longest
    pause in an answer.
    """

    url: str
    key: str | None = None
    connect_seconds: float = CONNECT_SECONDS
    silence_seconds: float = SILENCE_SECONDS

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object that a GET brings."""
        with self._exchange("GET", path, None, self.silence_seconds) as response:
            return _read_object(response)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the JSON object that a POST of one brings."""
        with self._exchange("POST", path, body or {}, self.silence_seconds) as response:
            return _read_object(response)

    def delete(self, path: str) -> dict[str, Any]:
        """Return the JSON object that a DELETE brings."""
        with self._exchange("DELETE", path, None, self.silence_seconds) as response:
            return _read_object(response)

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Yield the JSON objects of a stream of server-sent events until ``[DONE]``, or until its end."""
        with self._exchange("POST", path, {**body, "stream": True}, self.silence_seconds) as response:
            for data in _events(response):
                if data == "[DONE]":
                    return
                event = _parse(data)
                if "error" in event:
                    raise _answer_error(event, 200)
                yield event

    def answers(self) -> bool:
        """Say whether a server of ours is there, whatever it thinks of us."""
        try:
            with self._exchange("GET", "/health", None, self.connect_seconds) as response:
                return "status" in _read_object(response)
        except ServerUnreachableError:
            return False
        except AnswerError:
            return True

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, silence_seconds: float
    ) -> Iterator[http.client.HTTPResponse]:
        headers = {"Accept": "application/json"}
        content = None
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        prefix = urlsplit(self.url).path.rstrip("/")
        try:
            with closing(self._connect()) as connection:
                connection.connect()
                connection.sock.settimeout(silence_seconds)
                connection.request(method, prefix + path, content, headers)
                with connection.getresponse() as response:  # it keeps the socket where the connection ends with it
                    if response.status >= 400:
                        raise _answer_error(_error_body(response), response.status)
                    yield response
        except (OSError, http.client.HTTPException) as error:
            raise ServerUnreachableError(self._unreachable(error)) from error

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=self.connect_seconds)

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, ConnectionRefusedError):
            return (
                f"no server answers at {self.url}; start one with `localllm serve`, or name another address with --url"
            )
        return f"the server at {self.url} can't be reached, or broke off: {error or type(error).__name__}"


def check_url(url: str) -> str:
    """Return ``url`` without a slash, or ``/v1``, at its end. Raises ``ValueError`` for what no server can have."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or parts.username:
        message = f"{url!r} is no address of a server; write it as http://127.0.0.1:8000"
        raise ValueError(message)
    return parts.geturl().rstrip("/").removesuffix("/v1")


def _events(response: http.client.HTTPResponse) -> Iterator[str]:
    """Yield the data of each server-sent event; comments, which are pings, are passed over."""
    lines: list[str] = []
    while line := response.readline():
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text.startswith("data:"):
            lines.append(text[5:].removeprefix(" "))
        elif not text and lines:
            yield "\n".join(lines)
            lines = []


def _read_object(response: http.client.HTTPResponse) -> dict[str, Any]:
    return _parse(response.read().decode("utf-8", "replace"))


def _parse(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        message = f"the answer is not what a localllm server would say: {text[:80]!r}"
        raise ServerUnreachableError(message)
    return found


def _error_body(response: http.client.HTTPResponse) -> dict[str, Any]:
    try:
        found = json.loads(response.read(MAX_ERROR_BYTES))
    except (ValueError, OSError, http.client.HTTPException):
        found = None
    return found if isinstance(found, dict) else {}


def _answer_error(body: Mapping[str, Any], status: int) -> AnswerError:
    error = body.get("error")
    found = error if isinstance(error, Mapping) else {}
    message = str(found.get("message") or error or f"the server answered with status {status}")
    return AnswerError(message, str(found.get("code") or status), found)
