"""Model files that somebody made to do harm: each is a sound small model with one thing wrong, named by its fault."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from tests.models.raw_gguf import ARRAY, BOOL, F32, I32, STRING, U8, U32, U64, RawGguf, parse, text

Craft = Callable[[bytes], bytes]


def _raw(change: Callable[[RawGguf], object]) -> Craft:
    def craft(good: bytes) -> bytes:
        raw = parse(good)
        changed = change(raw)
        return (changed if isinstance(changed, RawGguf) else raw).bytes()

    return craft


def _pair(key: str, kind: int, value: Any) -> Craft:
    return _raw(lambda raw: raw.pairs.update({key: (kind, value)}))


def _tensor(**changes: Any) -> Craft:
    return _raw(lambda raw: raw.tensors.__setitem__(0, replace(raw.tensors[0], **changes)))


def _swap(marker: tuple[int, Any], wrong: bytes) -> Craft:
    """Write ``wrong`` where the value of a marked pair stands."""

    def craft(good: bytes) -> bytes:
        raw = parse(good)
        raw.pairs["marked.key"] = marker
        kind, value = marker
        right = text("marked.key") + struct.pack("<I", kind)
        content = raw.bytes()
        start = content.index(right) + len(right)
        length = len(text(value)) if kind == STRING else 12
        return content[:start] + wrong + content[start + length :]

    return craft


def _array(kind: int, count: int) -> Craft:
    return _swap((ARRAY, (U8, [])), struct.pack("<IQ", kind, count))


def _twice(good: bytes) -> bytes:
    content = replace(raw := parse(good), n_pairs=len(raw.pairs) + 1).bytes()
    return content[:24] + text("general.name") + struct.pack("<I", STRING) + text("again") + content[24:]


def _unknown_type(good: bytes) -> bytes:
    content = _pair("marked.key", U32, 1)(good)
    return content.replace(text("marked.key") + struct.pack("<I", U32), text("marked.key") + struct.pack("<I", 99))


def _head_bytes(good: bytes) -> int:
    raw = parse(good)
    assert raw.data is not None
    return len(good) - len(raw.data)


def _cut(where: Callable[[bytes], int]) -> Craft:
    return lambda good: good[: where(good)]


def _drop(*keys: str) -> Craft:
    return _raw(lambda raw: [raw.pairs.pop(key) for key in keys])


def _tokens(change: Callable[[list[bytes]], Iterable[bytes]]) -> Craft:
    def craft(raw: RawGguf) -> None:
        kind, tokens = raw.pairs["tokenizer.ggml.tokens"][1]
        raw.pairs["tokenizer.ggml.tokens"] = ARRAY, (kind, list(change(tokens)))

    return _raw(craft)


REFUSED: dict[str, Craft] = {
    # the header
    "empty": lambda good: b"",
    "magic": lambda good: b"GGML" + good[4:],
    "version_0": _raw(lambda raw: replace(raw, version=0)),
    "version_1": _raw(lambda raw: replace(raw, version=1)),
    "version_future": _raw(lambda raw: replace(raw, version=2**32 - 1)),
    "big_endian": _raw(lambda raw: replace(raw, version=3 << 24)),
    "n_tensors_huge": _raw(lambda raw: replace(raw, n_tensors=2**63)),
    "n_tensors_beyond_file": _raw(lambda raw: replace(raw, n_tensors=99_999)),
    "n_pairs_huge": _raw(lambda raw: replace(raw, n_pairs=2**64 - 1)),
    "n_pairs_beyond_file": lambda good: replace(parse(good), n_pairs=4000, data=b"").bytes(),
    "no_pairs": _raw(lambda raw: replace(raw, n_pairs=0, n_tensors=0)),
    # pairs
    "key_too_long": _pair("k" * 70_000, U32, 1),
    "key_empty": _pair("", U32, 1),
    "key_twice": _twice,
    "value_type": _unknown_type,
    "string_2_63": _swap((STRING, "text"), struct.pack("<Q", 2**63) + b"text"),
    "string_wraps": _swap((STRING, "text"), struct.pack("<Q", 2**64 - 8) + b"text"),
    "array_huge": _array(U8, 2**40),
    "array_wraps": _array(U64, 2**61),
    "array_of_strings_huge": _array(STRING, 2**60),
    "array_of_arrays": _array(ARRAY, 1),
    "array_of_unknown_type": _array(77, 1),
    "alignment_0": _pair("general.alignment", U32, 0),
    "alignment_3": _pair("general.alignment", U32, 3),
    "alignment_text": _pair("general.alignment", STRING, "32"),
    # hyper-parameters
    "architecture_missing": _drop("general.architecture"),
    "architecture_number": _pair("general.architecture", U32, 7),
    "blocks_0": _pair("llama.block_count", U32, 0),
    "blocks_2_31": _pair("llama.block_count", U32, 2**31),
    "blocks_text": _pair("llama.block_count", STRING, "2"),
    "heads_0": _pair("llama.attention.head_count", U32, 0),
    "heads_float": _pair("llama.attention.head_count", F32, 4.0),
    "heads_list_absurd": _pair("llama.attention.head_count", ARRAY, (U32, [4, 2**31])),
    "width_0": _pair("llama.embedding_length", U32, 0),
    "context_0": _pair("llama.context_length", U32, 0),
    "context_2_31": _pair("llama.context_length", U32, 2**31 - 1),
    "context_bool": _pair("llama.context_length", BOOL, True),
    "experts_absurd": _pair("llama.expert_count", U32, 2**20),
    "more_experts_used_than_there": _pair("llama.expert_used_count", U32, 4),
    "rope_absurd": _pair("llama.rope.dimension_count", U32, 2**31),
    # tensors
    "tensor_name_too_long": _tensor(name="n" * 64),
    "tensor_5_dimensions": _tensor(shape=(1,) * 5),
    "tensor_shape_overflows": _tensor(shape=(2**40, 2**40)),
    "tensor_size_overflows": _tensor(shape=(2**62, 1)),
    "tensor_type_unknown": _tensor(kind=2**31),
    "tensor_type_removed": _tensor(kind=4),
    "tensor_offset_beyond": _tensor(offset=2**62),
    "tensor_offset_wraps": _tensor(offset=2**64 - 32),
    "tensor_misaligned": _tensor(offset=1),
    "tensor_row_no_block": _tensor(shape=(33, 2), kind=8),
    "tensor_twice": _raw(lambda raw: raw.tensors.__setitem__(1, raw.tensors[0])),
    "tensors_overlap": _raw(lambda raw: raw.tensors.__setitem__(1, replace(raw.tensors[1], offset=32))),
    # cuts
    "cut_in_counts": _cut(lambda good: 20),
    "cut_in_pairs": _cut(lambda good: 200),
    "cut_in_tensor_table": _cut(lambda good: _head_bytes(good) - 200),
    "cut_before_data": _cut(_head_bytes),
    "cut_in_data": _cut(lambda good: len(good) - 1),
    # vocabulary
    "tokens_numbers": _pair("tokenizer.ggml.tokens", ARRAY, (U32, [1, 2, 3])),
    "scores_bytes": _pair("tokenizer.ggml.scores", ARRAY, (U8, [0] * 400)),
    "scores_too_few": _pair("tokenizer.ggml.scores", ARRAY, (F32, [0.0])),
    "token_types_too_few": _pair("tokenizer.ggml.token_type", ARRAY, (I32, [1])),
}
"""What the catalogue's reader refuses by itself, with a sentence."""

LISTED: dict[str, Craft] = {
    "block_missing": _pair("llama.block_count", U32, 3),
    "heads_do_not_divide": _pair("llama.attention.head_count", U32, 7),
    "heads_kv_more_than_heads": _pair("llama.attention.head_count_kv", U32, 64),
    "width_wrong": _pair("llama.embedding_length", U32, 96),
    "tensor_zero_dimension": _tensor(shape=(64, 0)),
    "tensor_shape_wrong": _tensor(shape=(64, 7)),
    "tokens_twice": _tokens(lambda tokens: [tokens[0], tokens[0], *tokens[2:]]),
    "tokens_none": _pair("tokenizer.ggml.tokens", ARRAY, (STRING, [])),
    "token_of_a_megabyte": _tokens(lambda tokens: [b"x" * 1_000_000, *tokens[1:]]),
    "token_no_utf8": _tokens(lambda tokens: [b"\xff\xfe\x00", *tokens[1:]]),
    "tokenizer_unknown": _pair("tokenizer.ggml.model", STRING, "nonsense"),
    "bos_beyond": _pair("tokenizer.ggml.bos_token_id", U32, 999_999),
    "eos_beyond": _pair("tokenizer.ggml.eos_token_id", U32, 2**32 - 1),
    "template_wrong": _pair("tokenizer.chat_template", STRING, "{% for %}"),
}
"""What only llama.cpp finds out, or what does no harm: some of it loads, some kills the worker."""

CRAFTED = REFUSED | LISTED
