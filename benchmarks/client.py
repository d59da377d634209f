"""A plain HTTP/1.1 client on asyncio: streams completions and notes when each token arrived."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Answer:
    """One streamed completion; times are ``time.perf_counter()`` seconds, one for each token-bearing chunk."""

    sent: float
    arrivals: list[float] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def first(self) -> float:
        """Seconds from sending to the first token."""
        return self.arrivals[0] - self.sent

    @property
    def longest_gap(self) -> float:
        """Longest time between two tokens."""
        return max(b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False))


class _Recorder(asyncio.Protocol):
    """Keeps what arrives, with the moment, and looks at it only afterwards: the client shares the server's cores."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.pieces: list[tuple[float, bytes]] = []
        self.sent = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)
        self.sent = time.perf_counter()

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.perf_counter(), data))

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set_result(None)


async def complete(port: int, prompt: list[int], max_tokens: int, **fields: Any) -> Answer:  # noqa: ANN401
    """Stream one completion of token ids; end tokens are ignored, so that every answer has ``max_tokens`` tokens."""
    body = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }
    return await _stream(port, "/v1/completions", body)


async def chat(port: int, messages: list[dict[str, str]], max_tokens: int, **fields: Any) -> Answer:  # noqa: ANN401
    """Stream one greedy answer in a conversation."""
    body = {
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }
    return await _stream(port, "/v1/chat/completions", body)


async def _stream(port: int, path: str, body: dict[str, Any]) -> Answer:
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    request = head.encode() + payload
    _, recorder = await asyncio.get_running_loop().create_connection(lambda: _Recorder(request), "127.0.0.1", port)
    await recorder.done
    return _read_answer(recorder)


def _read_answer(recorder: _Recorder) -> Answer:
    received = b"".join(piece for _, piece in recorder.pieces)
    if not received.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(received.decode(errors="replace"))
    answer = Answer(sent=recorder.sent)
    for moment, piece in recorder.pieces:
        for line in piece.split(b"\n"):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            if event.get("usage"):
                answer.usage = event["usage"]
            if event["choices"] and event["choices"][0]["finish_reason"] is None:
                choice = event["choices"][0]
                text = choice.get("text") if "delta" not in choice else choice["delta"].get("content")
                if text or "delta" not in choice:  # the first delta only says who speaks
                    answer.arrivals.append(moment)
                    answer.text += text or ""
    return answer


async def get(port: int, path: str) -> int:
    """Return the status of a GET request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
    status = await reader.readline()
    writer.close()
    return int(status.split()[1])


async def post(port: int, path: str, body: dict[str, Any]) -> int:
    """Return the status of a POST request with a JSON body, once it is answered."""
    return (await ask(port, path, body))[0]


async def ask(port: int, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """Return status and body of the answer to a POST request with a JSON body."""
    payload = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n".encode() + payload)
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]
