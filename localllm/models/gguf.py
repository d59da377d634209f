"""Reads what a GGUF file says of itself, without llama.cpp: a corrupt header gives a sentence, not a crash."""

from __future__ import annotations

import itertools
import os
import stat
import struct
from collections import Counter
from pathlib import Path

from localllm.contract.errors import ModelFileError
from localllm.models.gguf_bytes import HeaderBytes
from localllm.models.gguf_checks import alignment_of, check_metadata
from localllm.models.gguf_header import GgufHeader
from localllm.models.gguf_types import (
    MAGIC,
    SCALARS,
    TENSOR_TYPES,
    TYPE_ARRAY,
    TYPE_BOOL,
    TYPE_STRING,
    VERSIONS,
    Value,
)

MAX_KEYS = 4096
MAX_TENSORS = 100_000
MAX_KEY_BYTES = 64 * 1024
MAX_KEYS_BYTES = 1024 * 1024
MAX_ARRAY = 10_000_000
MAX_STRINGS = 2_000_000  # the largest vocabularies have 262,144 tokens, and as many merges
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME with its closing zero
MAX_DIMENSIONS = 4
_MAX_ELEMENTS = 2**63 - 1
_KEPT_TEXT_BYTES = 1024
_KEPT_LISTS = 64
_KEPT_LIST_VALUES = 512  # LLAMA_MAX_LAYERS
_KEPT_TAGS = 32
_TAGS = "general.tags"
_CLASSIFIER_TENSORS = frozenset({"cls.weight", "cls.output.weight"})
_SMALLEST_PAIR_BYTES = 13  # empty key, type, one byte
_SMALLEST_TENSOR_BYTES = 24  # empty name, no dimensions, type, offset


def read_header(path: str | os.PathLike[str]) -> GgufHeader:
    """Read and check the header of the GGUF file at ``path``, of version 2 or 3.

    Every count is compared with the bytes that are left before anything is allocated for it, and every tensor must lie
    inside the file. Raises :class:`ModelFileError` and nothing else; where only the end of the tensors is missing, its
    ``detail`` has ``needs_bytes``, the size of the whole file. Reads a few megabytes at most: some 0.1 s for a
    vocabulary of 262,144 tokens. What it returns takes some 20 KB, and never more than a few megabytes.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for its writer
            message = f"{path}: can't be read: it is no regular file"
            raise ModelFileError(message)
        with path.open("rb") as file:
            return _Reader(HeaderBytes(file, os.fstat(file.fileno()).st_size, path.name)).read()
    except OSError as error:
        message = f"{path}: can't be read: {error.strerror or error}"
        raise ModelFileError(message) from None


class _Reader:
    """Goes through one header from its first byte to its last."""

    def __init__(self, data: HeaderBytes) -> None:
        self.data = data
        self.metadata: dict[str, Value] = {}
        self.arrays: dict[str, tuple[int, int]] = {}  # value type and length
        self.lists: dict[str, tuple[Value, ...]] = {}
        self.keys_bytes = 0

    def read(self) -> GgufHeader:
        version, n_tensors, n_keys = self._counts()
        for index in range(n_keys):
            self._pair(index)
        check_metadata(self.metadata, self.lists, self.arrays, self.data.fault)
        names: set[str] = set()
        parameters: Counter[str] = Counter()
        extents: list[tuple[int, int, str]] = []
        for index in range(n_tensors):
            name, kind, n_elements, offset, n_bytes = self._tensor(index)
            if name in names:
                raise self.data.fault(f"it has two tensors named {name!r}")
            names.add(name)
            parameters[kind] += n_elements
            extents.append((offset, n_bytes, name))
        self._check_extents(extents)
        return GgufHeader(
            version=version,
            metadata=self.metadata,
            arrays={key: count for key, (_, count) in self.arrays.items()},
            n_tensors=n_tensors,
            parameters=dict(parameters),
            size_bytes=self.data.size,
            is_classifier=not _CLASSIFIER_TENSORS.isdisjoint(names),
            lists=self.lists,
        )

    def _counts(self) -> tuple[int, int, int]:
        data = self.data
        magic = data.take(4, "its first four bytes")
        if magic != MAGIC:
            raise data.fault(f"not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
        version = data.u32("its version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            reason = "is big-endian" if swapped else f"has GGUF version {version}, and only 2 and 3 can be read"
            raise data.fault(f"the file {reason}; convert the model again")
        n_tensors, n_keys = data.u64("the number of tensors"), data.u64("the number of keys")
        if n_keys > MAX_KEYS:
            raise data.fault(f"it announces {n_keys} keys, more than {MAX_KEYS}; it is corrupt")
        if n_tensors > MAX_TENSORS:
            raise data.fault(f"it announces {n_tensors} tensors, more than {MAX_TENSORS}; it is corrupt")
        data.require(n_keys * _SMALLEST_PAIR_BYTES + n_tensors * _SMALLEST_TENSOR_BYTES, "its tables")
        return version, n_tensors, n_keys

    def _pair(self, index: int) -> None:
        data = self.data
        raw_key = data.string(f"the name of key {index}", max_bytes=MAX_KEY_BYTES)
        self.keys_bytes += len(raw_key)
        if self.keys_bytes > MAX_KEYS_BYTES:
            raise data.fault(f"the names of its keys have more than {MAX_KEYS_BYTES} bytes; it is corrupt")
        key = raw_key.decode("utf-8", "replace")
        if not key or key in self.metadata or key in self.arrays:
            raise data.fault(f"key {index} has {'no name' if not key else f'the name {key!r:.200} a second time'}")
        kind = data.u32(f"the type of {key:.200}")
        if kind == TYPE_ARRAY:
            self._array(key)
        elif kind == TYPE_STRING:
            text = data.string_head(f"{key:.200}", max_bytes=_KEPT_TEXT_BYTES)
            self.metadata[key] = text.decode("utf-8", "replace")
        else:
            value = data.scalar(self._layout(kind, key), f"{key:.200}")
            self.metadata[key] = bool(value) if kind == TYPE_BOOL else value

    def _array(self, key: str) -> None:
        """Step over an array: the vocabulary's are megabytes that nobody here needs. Short ones of numbers are kept."""
        data = self.data
        kind, count = data.u32(f"the type of {key:.200}"), data.u64(f"the length of {key:.200}")
        most = MAX_STRINGS if kind == TYPE_STRING else MAX_ARRAY
        if count > most:
            raise data.fault(f"{key:.200} announces {count} values, more than {most}; the file is corrupt")
        self.arrays[key] = kind, count
        if kind == TYPE_STRING:
            kept = min(count, _KEPT_TAGS) if key == _TAGS else 0
            if kept:
                self.lists[key] = tuple(self._tag() for _ in range(kept))
            data.skip_strings(count - kept, f"{key:.200}")
            return
        layout = self._layout(kind, key)
        n_bytes = count * layout.size
        if count <= _KEPT_LIST_VALUES and len(self.lists) < _KEPT_LISTS and not key.startswith("tokenizer."):
            numbers = (number for (number,) in layout.iter_unpack(data.take(n_bytes, f"{key:.200}")))
            self.lists[key] = tuple(bool(number) if kind == TYPE_BOOL else number for number in numbers)
        else:
            data.skip(n_bytes, f"{key:.200}")

    def _tag(self) -> str:
        return self.data.string_head(_TAGS, max_bytes=_KEPT_TEXT_BYTES).decode("utf-8", "replace")

    def _layout(self, kind: int, key: str) -> struct.Struct:
        layout = SCALARS.get(kind)
        if layout is None:
            raise self.data.fault(f"{key:.200} has the unknown value type {kind}; the file is corrupt")
        return layout

    def _tensor(self, index: int) -> tuple[str, str, int, int, int]:
        """Return name, type, number of elements, offset in the data, size in bytes."""
        data = self.data
        raw_name = data.string(f"the name of tensor {index}", max_bytes=MAX_TENSOR_NAME_BYTES)
        name = raw_name.decode("utf-8", "replace")
        n_dimensions = data.u32(f"the shape of {name}")
        if n_dimensions > MAX_DIMENSIONS:
            raise data.fault(f"tensor {name!r} announces {n_dimensions} dimensions, more than {MAX_DIMENSIONS}")
        shape = [data.u64(f"the shape of {name}") for _ in range(n_dimensions)]
        kind = TENSOR_TYPES.get(number := data.u32(f"the type of {name}"))
        if kind is None:
            raise data.fault(f"tensor {name!r} has type {number}, which this llama.cpp does not know")
        offset = data.u64(f"the place of {name}")
        n_elements = 1
        for length in shape:
            n_elements *= length
            if n_elements > _MAX_ELEMENTS:
                raise data.fault(f"the shape {shape} of tensor {name!r} is impossibly large")
        if (shape[0] if shape else 1) % kind.block:
            raise data.fault(f"tensor {name!r} has rows of {shape[:1]} elements, which {kind.name} can't store")
        return name, kind.name, n_elements, offset, n_elements // kind.block * kind.block_bytes

    def _check_extents(self, extents: list[tuple[int, int, str]]) -> None:
        """Refuse tensors that reach beyond the file, into each other, or are misplaced."""
        alignment = alignment_of(self.metadata, self.data.fault)
        start = -(-self.data.position // alignment) * alignment
        extents.sort()
        for offset, n_bytes, name in extents:
            if offset % alignment:
                raise self.data.fault(f"tensor {name!r} lies at {offset}, not a multiple of {alignment}")
            if start + offset + n_bytes > self.data.size:
                error = self.data.fault(
                    f"tensor {name!r} ends at byte {start + offset + n_bytes}, but the file has {self.data.size}; "
                    f"it is truncated or still being copied"
                )
                error.detail["needs_bytes"] = start + max(begin + length for begin, length, _ in extents)
                raise error
        for (offset, n_bytes, name), (next_offset, _, next_name) in itertools.pairwise(extents):
            if offset + n_bytes > next_offset:
                raise self.data.fault(f"tensors {name!r} and {next_name!r} overlap; the file is corrupt")
