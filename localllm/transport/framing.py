"""Frames on a byte stream: a 4-byte big-endian length, then that many bytes."""

from __future__ import annotations

import struct
from typing import Protocol

from localllm.contract.errors import ProtocolError
from localllm.contract.wire import MAX_FRAME_BYTES

_HEADER = struct.Struct(">I")
HEADER_BYTES = _HEADER.size


class ReadableStream(Protocol):
    """A blocking, buffered byte stream: ``read(n)`` returns fewer than n bytes only at the end."""

    def read(self, size: int, /) -> bytes:
        """Return ``size`` bytes, or fewer at the end of the stream."""
        ...


def pack_frame(payload: bytes, *, max_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """Return ``payload`` with its length in front. Raises ``ProtocolError`` when it is longer than ``max_bytes``."""
    _check_length(len(payload), max_bytes)
    return _HEADER.pack(len(payload)) + payload


class FrameReader:
    """Cuts incoming bytes into frames, for code that is called with whatever has arrived.

    It never holds more than one unfinished frame, and refuses a too long one as soon as its header is there, before
    any memory is reserved for it.
    """

    def __init__(self, *, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived and return the frames that are now complete, in order. Raises ``ProtocolError``."""
        pending = self._pending
        pending += data
        frames: list[bytes] = []
        start = 0
        while len(pending) - start >= HEADER_BYTES:
            (length,) = _HEADER.unpack_from(pending, start)
            _check_length(length, self._max_bytes)
            end = start + HEADER_BYTES + length
            if len(pending) < end:
                break
            frames.append(bytes(pending[start + HEADER_BYTES : end]))
            start = end
        del pending[:start]
        return frames

    def end(self) -> None:
        """Say that nothing more comes. Raises ``ProtocolError`` when that cuts a frame in two."""
        if self._pending:
            message = f"The stream ended inside a frame: {len(self._pending)} bytes of it had arrived."
            raise ProtocolError(message)


def read_frame(stream: ReadableStream, *, max_bytes: int = MAX_FRAME_BYTES) -> bytes | None:
    """Block until one whole frame is there and return it, or None at the end. Raises ``ProtocolError``."""
    header = stream.read(HEADER_BYTES)
    if not header:
        return None
    if len(header) < HEADER_BYTES:
        message = f"The stream ended inside a frame: {len(header)} bytes of it had arrived."
        raise ProtocolError(message)
    (length,) = _HEADER.unpack(header)
    _check_length(length, max_bytes)
    payload = stream.read(length)
    if len(payload) < length:
        message = f"The stream ended inside a frame: {len(payload)} of {length} bytes had arrived."
        raise ProtocolError(message)
    return payload


def _check_length(length: int, max_bytes: int) -> None:
    if length > max_bytes:
        message = f"A frame of {length} bytes is longer than the limit of {max_bytes} bytes."
        raise ProtocolError(message)
