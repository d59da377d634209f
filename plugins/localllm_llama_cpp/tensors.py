"""Asks the library's own GGUF reader for what a loaded model doesn't tell: tensors, and numbers by layer."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp._ctypes_extensions import load_shared_library

_TYPE_STRING, _TYPE_ARRAY = 8, 9  # enum gguf_type (gguf.h)
_NUMBERS: dict[int, Any] = {
    0: ctypes.c_uint8,
    1: ctypes.c_int8,
    2: ctypes.c_uint16,
    3: ctypes.c_int16,
    4: ctypes.c_uint32,
    5: ctypes.c_int32,
    6: ctypes.c_float,
    7: ctypes.c_bool,
    10: ctypes.c_uint64,
    11: ctypes.c_int64,
    12: ctypes.c_double,
}
_MAX_NUMBERS = 512  # LLAMA_MAX_LAYERS
_PART = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})\.gguf")  # llama_split_path


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))  # gguf.h, gguf_init_params


def tensors_present(path: Path, names: frozenset[str]) -> frozenset[str]:
    """Return those of ``names`` that the GGUF file at ``path`` has; none of them if the file can't be read.

    Reads the header only. Call it for files that the library has loaded: what it can't read, it may abort on.
    """
    with _opened(path) as file:
        gguf = _library()
        return frozenset(name for name in names if file and gguf.gguf_find_tensor(file, name.encode()) >= 0)


def tensor_bytes(path: Path) -> Mapping[str, int]:
    """Return the bytes of each tensor by name, those in the other parts of a split file too.

    Nothing of a file that can't be read; it may take 0.1 s with a large vocabulary.
    """
    gguf = _library()
    found: dict[str, int] = {}
    for part in parts_of(path):
        with _opened(part) as file:
            for index in range(gguf.gguf_get_n_tensors(file) if file else 0):
                name = gguf.gguf_get_tensor_name(file, index).decode("utf-8", "replace")
                found[name] = gguf.gguf_get_tensor_size(file, index)
    return found


def number_lists(path: Path, keys: frozenset[str]) -> Mapping[str, tuple[float, ...]]:
    """Return the arrays of numbers under those of ``keys`` that the file has."""
    found: dict[str, tuple[float, ...]] = {}
    with _opened(path) as file:
        for key in keys if file else ():
            value = _value(file, _library().gguf_find_key(file, key.encode()))
            if isinstance(value, tuple):
                found[key] = value
    return found


def read_numbers(path: Path) -> tuple[str, Mapping[str, float | tuple[float, ...]], int]:
    """Return the architecture, the numbers under its own keys without its name, and the size of the vocabulary.

    A file that can't be read has neither.
    """
    gguf = _library()
    with _opened(path) as file:
        if not file:
            return "", {}, 0
        index = gguf.gguf_find_key(file, b"general.architecture")
        is_text = index >= 0 and gguf.gguf_get_kv_type(file, index) == _TYPE_STRING
        architecture = gguf.gguf_get_val_str(file, index).decode("utf-8", "replace") if is_text else ""
        numbers: dict[str, float | tuple[float, ...]] = {}
        for index in range(gguf.gguf_get_n_kv(file)):
            key = gguf.gguf_get_key(file, index).decode("utf-8", "replace")
            if key.startswith(f"{architecture}.") and (value := _value(file, index)) is not None:
                numbers[key.removeprefix(f"{architecture}.")] = value
        tokens = gguf.gguf_find_key(file, b"tokenizer.ggml.tokens")
        is_list = tokens >= 0 and gguf.gguf_get_kv_type(file, tokens) == _TYPE_ARRAY
        n_vocab = gguf.gguf_get_arr_n(file, tokens) if is_list else numbers.get("vocab_size", 0)
    return architecture, numbers, n_vocab if isinstance(n_vocab, int) else 0


def _value(file: Any, index: int) -> float | tuple[float, ...] | None:  # noqa: ANN401  # gguf_context pointer
    """Return the number, or the short array of numbers, at ``index``; None for all else."""
    gguf = _library()
    if index < 0:
        return None
    kind = gguf.gguf_get_kv_type(file, index)
    if kind != _TYPE_ARRAY:
        number = _NUMBERS.get(kind)
        return float(number.from_address(gguf.gguf_get_val_data(file, index)).value) if number is not None else None
    number = _NUMBERS.get(gguf.gguf_get_arr_type(file, index))
    count = gguf.gguf_get_arr_n(file, index)
    if number is None or not 0 < count <= _MAX_NUMBERS:
        return None
    return tuple(float(one) for one in (number * count).from_address(gguf.gguf_get_arr_data(file, index)))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Give the file's context, None where it can't be read."""
    gguf = _library()
    context = gguf.gguf_init_from_file(str(path).encode(), _InitParams(no_alloc=True, ctx=None))
    try:
        yield context
    finally:
        if context:
            gguf.gguf_free(context)


def parts_of(path: Path) -> list[Path]:
    """Return all files of a model, of which ``path`` is the first."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    return [path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]


@functools.cache
def _library() -> Any:  # noqa: ANN401  # ctypes.CDLL, of which the functions are attributes
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = load_shared_library("ggml-base", folder)
    context, number, text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
    signatures: dict[str, tuple[list[Any], Any]] = {
        "gguf_init_from_file": ([text, _InitParams], context),
        "gguf_free": ([context], None),
        "gguf_find_tensor": ([context, text], number),
        "gguf_get_n_tensors": ([context], number),
        "gguf_get_tensor_name": ([context, number], text),
        "gguf_get_tensor_size": ([context, number], ctypes.c_size_t),
        "gguf_find_key": ([context, text], number),
        "gguf_get_n_kv": ([context], number),
        "gguf_get_key": ([context, number], text),
        "gguf_get_kv_type": ([context, number], ctypes.c_int),
        "gguf_get_val_data": ([context, number], context),
        "gguf_get_val_str": ([context, number], text),
        "gguf_get_arr_type": ([context, number], ctypes.c_int),
        "gguf_get_arr_n": ([context, number], ctypes.c_size_t),
        "gguf_get_arr_data": ([context, number], context),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library
