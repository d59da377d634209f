"""Asks the library's own GGUF reader which tensors a file has: a loaded model doesn't tell."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp._ctypes_extensions import load_shared_library


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))  # gguf.h, gguf_init_params


def tensors_present(path: Path, names: frozenset[str]) -> frozenset[str]:
    """Return those of ``names`` that the GGUF file at ``path`` has; none of them if the file can't be read.

    Reads the header only. Call it for files that the library has loaded: what it can't read, it may abort on.
    """
    gguf = _library()
    context = gguf.gguf_init_from_file(str(path).encode(), _InitParams(no_alloc=True, ctx=None))
    if not context:
        return frozenset()
    try:
        return frozenset(name for name in names if gguf.gguf_find_tensor(context, name.encode()) >= 0)
    finally:
        gguf.gguf_free(context)


@functools.cache
def _library() -> Any:  # noqa: ANN401  # ctypes.CDLL, of which the functions are attributes
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = load_shared_library("ggml-base", folder)
    library.gguf_init_from_file.argtypes = [ctypes.c_char_p, _InitParams]
    library.gguf_init_from_file.restype = ctypes.c_void_p
    library.gguf_find_tensor.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.gguf_find_tensor.restype = ctypes.c_int64
    library.gguf_free.argtypes = [ctypes.c_void_p]
    library.gguf_free.restype = None
    return library
