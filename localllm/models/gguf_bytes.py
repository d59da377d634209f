"""Reads a GGUF header's bytes in order, and never believes a length before comparing it with what is left."""

from __future__ import annotations

import struct
from typing import BinaryIO

from localllm.contract.errors import ModelFileError

MAX_METADATA_BYTES = 64 * 1024 * 1024
"""Everything before the tensors' data. A vocabulary of 262,144 tokens with its merges takes about 16 MB."""

_WINDOW_BYTES = 256 * 1024
_U64 = struct.Struct("<Q")


class HeaderBytes:
    """A cursor over an open file. Memory stays within one window and the longest string asked for.

    The file is read, not mapped: a mapped file that is truncated meanwhile would kill the process with SIGBUS.
    All methods raise :class:`ModelFileError` at the end of the file or of ``MAX_METADATA_BYTES``.
    """

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.position = 0
        self.size = size
        self._file = file
        self._name = name
        self._limit = min(size, MAX_METADATA_BYTES)
        self._window = b""
        self._window_start = 0

    def fault(self, sentence: str) -> ModelFileError:
        """Return the error to raise: the file's name and what is wrong with it."""
        return ModelFileError(f"{self._name}: {sentence}")

    @property
    def remaining(self) -> int:
        """Bytes that the header may still have."""
        return self._limit - self.position

    def require(self, n_bytes: int, what: str) -> None:
        """Refuse what would reach beyond the file, before anything is allocated for it."""
        if n_bytes <= self.remaining:
            return
        if self.position + n_bytes > self.size:
            raise self.fault(
                f"the file ends inside {what}: {n_bytes} bytes are announced at byte {self.position}, "
                f"{self.size - self.position} are there; it is truncated or corrupt, download it again"
            )
        raise self.fault(f"its metadata is larger than {MAX_METADATA_BYTES} bytes (at {what})")

    def take(self, n_bytes: int, what: str) -> bytes:
        """Return the next bytes."""
        self.require(n_bytes, what)
        start = self.position - self._window_start
        if start < 0 or start + n_bytes > len(self._window):
            self._refill(n_bytes, what)
            start = 0
        self.position += n_bytes
        return self._window[start : start + n_bytes]

    def scalar(self, layout: struct.Struct, what: str) -> int | float:
        """Return one number."""
        value: int | float = layout.unpack(self.take(layout.size, what))[0]
        return value

    def u32(self, what: str) -> int:
        """Return an unsigned 32-bit integer."""
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        """Return an unsigned 64-bit integer."""
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str, *, max_bytes: int) -> bytes:
        """Return a length-prefixed string, refusing one that is longer than ``max_bytes``."""
        length = self.u64(what)
        if length > max_bytes:
            raise self.fault(f"{what} has {length} bytes, more than {max_bytes}; the file is corrupt")
        return self.take(length, what)

    def string_head(self, what: str, *, max_bytes: int) -> bytes:
        """Return the first ``max_bytes`` of a length-prefixed string and step over the rest."""
        length = self.u64(what)
        self.require(length, what)
        head = self.take(min(length, max_bytes), what)
        self.skip(length - len(head), what)
        return head

    def skip(self, n_bytes: int, what: str) -> None:
        """Step over bytes without reading them."""
        self.require(n_bytes, what)
        self.position += n_bytes

    def skip_strings(self, count: int, what: str) -> None:
        """Step over ``count`` length-prefixed strings.

        The inner loop runs once for each entry of a vocabulary: it is kept tight.
        """
        self.require(count * 8, what)
        unpack_length = _U64.unpack_from
        while count:
            offset = self.position - self._window_start
            if offset < 0 or offset + 8 > len(self._window):
                self.require(8, what)
                self._refill(8, what)
                offset = 0
            window, last = self._window, len(self._window) - 8
            while count and offset <= last:
                offset += 8 + unpack_length(window, offset)[0]
                count -= 1
            end = self._window_start + offset
            self.require(end - self.position, what)
            self.position = end

    def _refill(self, n_bytes: int, what: str) -> None:
        try:
            self._file.seek(self.position)
            self._window = self._file.read(min(max(n_bytes, _WINDOW_BYTES), self.size - self.position))
        except OSError as error:
            raise self.fault(f"can't be read: {error.strerror or error}") from None
        self._window_start = self.position
        if len(self._window) < n_bytes:
            raise self.fault(f"the file became shorter while {what} was read; is it still being copied?")
