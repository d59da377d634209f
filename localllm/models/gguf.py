"""Reads what a GGUF file says of itself, without llama.cpp: a corrupt header gives a sentence, not a crash."""

from __future__ import annotations

import itertools
import os
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localllm.contract.errors import ModelFileError
from localllm.models.gguf_bytes import HeaderBytes
from localllm.models.gguf_types import (
    FILE_TYPES,
    MAGIC,
    POOLING_TYPES,
    SCALARS,
    TENSOR_TYPES,
    TYPE_ARRAY,
    TYPE_BOOL,
    TYPE_STRING,
    VERSIONS,
)

MAX_KEYS = 4096
MAX_TENSORS = 100_000
MAX_KEY_BYTES = 64 * 1024
MAX_ARRAY = 10_000_000
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME with its closing zero
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1024 * 1024
_MAX_ELEMENTS = 2**63 - 1
_KEPT_TEXT_BYTES = 4096
_SMALLEST_PAIR_BYTES = 13  # empty key, type, one byte
_SMALLEST_TENSOR_BYTES = 24  # empty name, no dimensions, type, offset
_DEFAULT_ALIGNMENT = 32

_BOUNDS = {
    "block_count": (0, 512),  # LLAMA_MAX_LAYERS; beyond it llama.cpp aborts
    "embedding_length": (1, 1 << 20),
    "attention.head_count": (0, 1024),  # 0 in recurrent models
    "attention.head_count_kv": (0, 1024),
    "context_length": (1, 2**31 - 1),
}

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What one file says. ``metadata`` has its scalars and the first 4 KB of its strings, ``arrays`` lengths only."""

    version: int
    metadata: Mapping[str, Value]
    arrays: Mapping[str, int]
    n_tensors: int
    n_params: int
    size_bytes: int
    tensor_names: frozenset[str]
    main_tensor_type: str  # of most parameters

    @property
    def architecture(self) -> str:
        """``general.architecture``; "" in the later parts of a split model, whose first part has it."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def role(self) -> str:
        """``general.type``: "model", or what else the file is ("adapter", "mmproj", "imatrix", …)."""
        role = self._text("general.type") or "model"
        return "mmproj" if self.architecture == "clip" else role

    @property
    def name(self) -> str | None:
        """The model's own name, if it has one."""
        return self._text("general.name")

    @property
    def context_length(self) -> int | None:
        """Tokens of context that the model was trained for."""
        return self.integer(f"{self.architecture}.context_length")

    @property
    def embedding_length(self) -> int | None:
        """Width of the model."""
        return self.integer(f"{self.architecture}.embedding_length")

    @property
    def block_count(self) -> int | None:
        """Layers of the model."""
        return self.integer(f"{self.architecture}.block_count")

    @property
    def vocab_size(self) -> int | None:
        """Tokens in the vocabulary."""
        return self.arrays.get("tokenizer.ggml.tokens") or self.integer(f"{self.architecture}.vocab_size")

    @property
    def quantisation(self) -> str:
        """The file type's name, or that of the type which most parameters have."""
        file_type = self.integer("general.file_type")
        return FILE_TYPES.get(file_type, self.main_tensor_type) if file_type is not None else self.main_tensor_type

    @property
    def pooling_type(self) -> str | None:
        """How token vectors become one: "none", "mean", "cls", "last", "rank", or None when nothing is said."""
        pooling = self.integer(f"{self.architecture}.pooling_type")
        return POOLING_TYPES.get(pooling) if pooling is not None else None

    @property
    def is_classifier(self) -> bool:
        """Whether the file has a classification head, as rerankers do."""
        return bool({"cls.weight", "cls.output.weight"} & self.tensor_names)

    @property
    def has_chat_template(self) -> bool:
        """Whether a chat template is stored in the file."""
        return bool(self.metadata.get("tokenizer.chat_template"))

    @property
    def n_parts(self) -> int:
        """Files that the model was split into; 1 when it was not."""
        return self.integer("split.count") or 1

    def integer(self, key: str) -> int | None:
        """Return an integer of the metadata, None when it is absent or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) and value else None


def read_header(path: str | os.PathLike[str]) -> GgufHeader:
    """Read and check the header of the GGUF file at ``path``, of version 2 or 3.

    Every count is compared with the bytes that are left before anything is allocated for it, and every tensor must lie
    inside the file. Raises :class:`ModelFileError` and nothing else; where only the end of the tensors is missing, its
    ``detail`` has ``needs_bytes``, the size of the whole file. Reads a few megabytes at most: some 0.1 s for a
    vocabulary of 262,144 tokens.
    """
    path = Path(path)
    try:
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
        self.arrays: dict[str, int] = {}

    def read(self) -> GgufHeader:
        version, n_tensors, n_keys = self._counts()
        for index in range(n_keys):
            self._pair(index)
        self._check_metadata()
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
            arrays=self.arrays,
            n_tensors=n_tensors,
            n_params=parameters.total(),
            size_bytes=self.data.size,
            tensor_names=frozenset(names),
            main_tensor_type=parameters.most_common(1)[0][0] if parameters else "none",
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
        key = raw_key.decode("utf-8", "replace")
        if not key or key in self.metadata or key in self.arrays:
            raise data.fault(f"key {index} has {'no name' if not key else f'the name {key!r} a second time'}")
        kind = data.u32(f"the type of {key}")
        if kind == TYPE_ARRAY:
            self.arrays[key] = self._skip_array(key)
        elif kind == TYPE_STRING:
            text = data.string_head(key, max_bytes=_KEPT_TEXT_BYTES)
            self.metadata[key] = text.decode("utf-8", "replace")
        else:
            value = data.scalar(self._layout(kind, key), key)
            self.metadata[key] = bool(value) if kind == TYPE_BOOL else value

    def _skip_array(self, key: str) -> int:
        """Step over an array; the vocabulary's arrays are megabytes that nobody here needs."""
        data = self.data
        kind, count = data.u32(f"the type of {key}"), data.u64(f"the length of {key}")
        if count > MAX_ARRAY:
            raise data.fault(f"{key} announces {count} values, more than {MAX_ARRAY}; the file is corrupt")
        if kind == TYPE_STRING:
            data.skip_strings(count, key)
        else:
            data.skip(count * self._layout(kind, key).size, key)
        return count

    def _layout(self, kind: int, key: str) -> struct.Struct:
        layout = SCALARS.get(kind)
        if layout is None:
            raise self.data.fault(f"{key} has the unknown value type {kind}; the file is corrupt")
        return layout

    def _check_metadata(self) -> None:
        architecture = self.metadata.get("general.architecture")
        is_later_part = self.metadata.get("split.no", 0) not in (0, False)
        if not (isinstance(architecture, str) and architecture) and not is_later_part:
            raise self.data.fault("it names no architecture (general.architecture)")
        for key, (least, most) in _BOUNDS.items():
            value = self.metadata.get(f"{architecture}.{key}", least)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise self.data.fault(
                    f"{architecture}.{key} is {value!r:.80}, but lies between {least} and {most}; the file is corrupt"
                )

    def _alignment(self) -> int:
        value = self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
            raise self.data.fault(f"general.alignment is {value!r:.80}, not a power of two up to {MAX_ALIGNMENT}")
        return value

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
        alignment = self._alignment()
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
