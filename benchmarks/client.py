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

    @property
    def first(self) -> float:
        """Seconds from sending to the first token."""
        return self.arrivals[0] - self.sent

    @property
    def longest_gap(self) -> float:
        """Longest time between two tokens."""
        return max(b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False))


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
    payload = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    answer = Answer(sent=time.perf_counter())
    await writer.drain()
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError((status + await reader.read()).decode())
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            if event.get("usage"):
                answer.usage = event["usage"]
            if event["choices"] and event["choices"][0]["finish_reason"] is None:
                answer.arrivals.append(now)
    finally:
        writer.close()
    return answer


async def get(port: int, path: str) -> int:
    """Return the status of a GET request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
    status = await reader.readline()
    writer.close()
    return int(status.split()[1])
