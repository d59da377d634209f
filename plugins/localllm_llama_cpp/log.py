"""Passes llama.cpp's warnings and errors on to stderr; remembers the first error, and which buffers it took."""

from __future__ import annotations

import ctypes
import functools
import re
import sys
from typing import Any, NamedTuple

import llama_cpp.llama_cpp as lib

# enum ggml_log_level (ggml.h)
_WARN, _ERROR, _CONTINUED = 3, 4, 5
_EXPECTED = (
    "possible training context overflow",  # a pool for several contexts is longer than one, on purpose
    "model default pooling_type is",  # many files leave it out, and it is chosen for them
)
_BUFFER = re.compile(r"(\S+)\s+(model|LoRA|KV|RS|output|compute) buffer size\s*=\s*(\d+\.\d+) MiB")
_MEBIBYTE = 1024 * 1024


class Buffer(NamedTuple):
    """Memory that the library took: for what ("model", "LoRA", "KV", "RS", "output", "compute"), and of which kind."""

    purpose: str
    place: str  # "CPU", "CPU_Mapped", "CUDA0", …
    n_bytes: int


class NativeLog:
    """The receiver of the library's log lines."""

    def __init__(self) -> None:
        self._shown = False
        self.first_error = ""  # the cause; what follows are its consequences
        self._buffers: list[Buffer] | None = None  # what was announced while somebody listened
        self._callback: Any = lib.llama_log_callback(self._receive)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def forget_errors(self) -> None:
        """Begin to look for the first error anew."""
        self.first_error = ""

    def listen(self) -> None:
        """Begin to note buffers."""
        self._buffers = []

    def heard(self) -> tuple[Buffer, ...]:
        """Stop to note buffers, and return those that were announced."""
        found, self._buffers = tuple(self._buffers or ()), None
        return found

    def _receive(self, level: int, text: bytes | None, _user_data: object) -> None:
        """Handle one piece of a line; called by native code, from any of its threads."""
        line = (text or b"").decode("utf-8", errors="replace")
        if level != _CONTINUED:
            self._shown = level in (_WARN, _ERROR) and not any(words in line for words in _EXPECTED)
        if self._buffers is not None and (found := _BUFFER.search(line)):
            self._buffers.append(Buffer(found[2], found[1], round(float(found[3]) * _MEBIBYTE)))
        if level == _ERROR:
            self.first_error = self.first_error or line.strip()
        if self._shown:
            sys.stderr.write(line)
            sys.stderr.flush()


@functools.cache
def native_log() -> NativeLog:
    """Return the process's one receiver. The library keeps a pointer to it and may log at any time, so it stays."""
    return NativeLog()
