"""The last words of a worker: the end of its stderr, bounded, and the line of it that says why it died."""

from __future__ import annotations

import logging
import re

RING_BYTES = 64 * 1024
LINE_CHARACTERS = 500
_LOG_LINE_BYTES = 4_000
_LOGGED_LINES = 20

# Best first. ggml prints its assertion and then more; Python prints the exception last, after its traceback.
_TELLING = (
    re.compile(r"GGML_ASSERT|GGML_ABORT"),
    re.compile(r"^(?!Traceback)[\w.]*(Error|Exception|Interrupt|Exit)\b"),
    re.compile(r"\b(error|fatal|failed|abort\w*|terminate called)\b", re.IGNORECASE),
)
# What Python's fault handler prints around a native crash: the frames, and the list of extension modules.
_NOISE = re.compile(r'^(  File "|Current thread|Thread 0x|Extension modules|<no Python frame>)')


class StderrRing:
    """Keeps the last 64 KiB, whatever comes in and in whatever pieces; a flood costs no more than a line."""

    def __init__(self, size: int = RING_BYTES) -> None:
        self._size = size
        self._tail = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        self._tail += data[-self._size :]
        if len(self._tail) > self._size:
            del self._tail[: -self._size]

    def text(self) -> str:
        """Return what is kept; bytes that are no UTF-8 are replaced."""
        return self._tail.decode("utf-8", errors="replace")

    def last_lines(self) -> str:
        """Return the last lines, shortened, as they go into the log after a death."""
        lines = [line.rstrip()[:LINE_CHARACTERS] for line in self.text().splitlines() if line.strip()]
        return "\n".join(lines[-_LOGGED_LINES:])

    def telling_line(self) -> str:
        """Return the line that most likely names the cause, or "" when there is none."""
        lines = [line for line in self.text().splitlines() if line.strip() and not _NOISE.match(line)]
        for pattern in _TELLING:
            for line in reversed(lines):
                if pattern.search(line):
                    return line.strip()[:LINE_CHARACTERS]
        return lines[-1].strip()[:LINE_CHARACTERS] if lines else ""


class LineLog:
    """Passes a worker's stderr on to a logger at DEBUG, line by line; does nothing when nobody listens."""

    def __init__(self, logger: logging.Logger, name: str) -> None:
        self._logger = logger
        self._name = name
        self._line = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what arrived. A line without end is cut where it gets too long."""
        if not self._logger.isEnabledFor(logging.DEBUG):
            return
        self._line += data
        *lines, rest = bytes(self._line).split(b"\n")
        if len(rest) > _LOG_LINE_BYTES:
            lines, rest = [*lines, rest], b""
        self._line = bytearray(rest)
        for line in lines:
            if line.strip():
                text = line[:_LOG_LINE_BYTES].decode("utf-8", errors="replace")
                self._logger.debug("worker of %s: %s", self._name, text)
