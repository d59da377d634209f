"""Passes llama.cpp's warnings and errors on to stderr and remembers the first error, for messages."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, TextIO

import llama_cpp.llama_cpp as lib

_EXPECTED = ("possible training context overflow",)  # a pool for several contexts is longer than one, on purpose
# enum ggml_log_level (ggml.h)
_WARN, _ERROR, _CONTINUED = 3, 4, 5


class NativeLog:
    """Receives the library's log lines while installed. The library keeps a pointer to it: it must stay alive."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._shown = False
        self.first_error = ""  # the cause; what follows are its consequences
        self._callback: Any = lib.llama_log_callback(self._receive)

    def install(self) -> None:
        """Become the library's only log receiver, in place of its own lines on stderr."""
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _receive(self, level: int, text: bytes | None, _user_data: object) -> None:
        """Handle one piece of a line; called by native code, from any of its threads."""
        line = (text or b"").decode("utf-8", errors="replace")
        if level != _CONTINUED:
            self._shown = level in (_WARN, _ERROR) and not any(words in line for words in _EXPECTED)
        if level == _ERROR:
            self.first_error = self.first_error or line.strip()
        if self._shown:
            print(line, end="", file=self._stream or sys.stderr, flush=True)  # stderr is the worker's log
