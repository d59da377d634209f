"""Writes GGUF files byte by byte, right ones and wrong ones."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}

PAIRS: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "llama"),
    "general.name": (STRING, "Tiny"),
    "general.file_type": (U32, 7),
    "llama.context_length": (U32, 2048),
    "llama.block_count": (U32, 2),
    "llama.embedding_length": (U32, 32),
    "llama.attention.head_count": (U32, 4),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "b", "ccc"])),
    "tokenizer.ggml.scores": (ARRAY, (F32, [0.0, 1.0, 2.0])),
    "tokenizer.chat_template": (STRING, "{{ messages }}"),
}


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def value_bytes(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(value_bytes(inner, item) for item in items)
    return struct.pack("<" + FORMATS[kind], value)


@dataclass
class Tensor:
    """One entry of the tensor table with its data."""

    name: str = "token_embd.weight"
    shape: tuple[int, ...] = (32, 4)
    kind: int = 0  # F32
    offset: int = 0
    n_bytes: int = 512


@dataclass
class RawGguf:
    """A file to be written; every field may be made wrong."""

    pairs: dict[str, tuple[int, Any]] = field(default_factory=lambda: dict(PAIRS))
    tensors: list[Tensor] = field(default_factory=lambda: [Tensor()])
    magic: bytes = b"GGUF"
    version: int = 3
    n_pairs: int | None = None
    n_tensors: int | None = None
    alignment: int = 32
    data: bytes | None = None  # of all tensors; absent: zeros

    def with_pairs(self, **pairs: tuple[int, Any]) -> RawGguf:
        """Add pairs; ``__`` in a name stands for a dot."""
        self.pairs |= {name.replace("__", "."): pair for name, pair in pairs.items()}
        return self

    def header(self) -> bytes:
        n_pairs = len(self.pairs) if self.n_pairs is None else self.n_pairs
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        out = [self.magic + struct.pack("<IQQ", self.version, n_tensors, n_pairs)]
        for key, (kind, value) in self.pairs.items():
            out.append(text(key) + struct.pack("<I", kind) + value_bytes(kind, value))
        for tensor in self.tensors:
            shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            out.append(text(tensor.name) + shape + struct.pack("<IQ", tensor.kind, tensor.offset))
        return b"".join(out)

    def bytes(self) -> bytes:
        header = self.header()
        padding = -len(header) % self.alignment
        if self.data is not None:
            return header + bytes(padding) + self.data
        size = max((tensor.offset + tensor.n_bytes for tensor in self.tensors), default=0)
        return header + bytes(padding) + bytes(size)

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.bytes())
        return path


def architecture(name: str, **pairs: tuple[int, Any]) -> RawGguf:
    """Return a small model of another architecture; ``pairs`` belong to it."""
    base: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, name),
        f"{name}.context_length": (U32, 512),
        f"{name}.embedding_length": (U32, 32),
    }
    return RawGguf(base | {f"{name}.{key}": pair for key, pair in pairs.items()})


def parse(content: bytes) -> RawGguf:
    """Return a right file as it can be changed and written again; its tensors' ``n_bytes`` are not known."""
    version, n_tensors, n_pairs = struct.unpack_from("<IQQ", content, 4)
    at = 24

    def number(layout: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + layout, content, at)
        at += struct.calcsize("<" + layout)
        return value

    def data() -> bytes:
        nonlocal at
        length = number("Q")
        at += length
        return content[at - length : at]

    def value(kind: int) -> Any:
        if kind == ARRAY:
            inner, count = number("I"), number("Q")
            return inner, [value(inner) for _ in range(count)]
        return data() if kind == STRING else number(FORMATS[kind])

    raw = RawGguf({}, [], version=version)
    for _ in range(n_pairs):
        key, kind = data().decode(), number("I")
        raw.pairs[key] = kind, value(kind)
    for _ in range(n_tensors):
        name = data().decode()
        shape = tuple(number("Q") for _ in range(number("I")))
        raw.tensors.append(Tensor(name, shape, number("I"), number("Q"), 0))
    raw.data = content[at + -at % raw.alignment :]
    return raw
