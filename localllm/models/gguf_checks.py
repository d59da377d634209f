"""Refuses GGUF metadata whose numbers no model has, before a worker is started for it and llama.cpp aborts on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from localllm.contract.errors import ModelFileError
from localllm.models.gguf_types import TYPE_STRING, Value

MAX_ALIGNMENT = 1024 * 1024
_DEFAULT_ALIGNMENT = 32
_INT32_MAX = 2**31 - 1

BOUNDS: Mapping[str, tuple[int, int]] = {
    "block_count": (1, 512),  # LLAMA_MAX_LAYERS; beyond it llama.cpp aborts
    "embedding_length": (1, 1 << 20),
    "feed_forward_length": (0, 1 << 24),  # 0 in recurrent models
    "attention.head_count": (0, 1024),  # 0 in recurrent models
    "attention.head_count_kv": (0, 1024),
    "attention.key_length": (1, 1 << 16),
    "attention.value_length": (1, 1 << 16),
    "attention.sliding_window": (0, _INT32_MAX),
    "context_length": (1, 1 << 26),  # the longest known is 10 million tokens
    "expert_count": (0, 1024),  # LLAMA_MAX_EXPERTS
    "expert_used_count": (0, 1024),
    "rope.dimension_count": (0, 1 << 16),
    "vocab_size": (0, 1 << 24),
}
"""Integers under ``<architecture>.``, each alone or as a list with one for each layer."""

_RECURRENT_KEYS = ("ssm.", "wkv.")
_INT32, _FLOAT32 = 5, 6
_TOKEN_ARRAYS = {"tokenizer.ggml.scores": (_FLOAT32, _INT32), "tokenizer.ggml.token_type": (_INT32,)}

Fault = Callable[[str], ModelFileError]


def check_metadata(
    metadata: Mapping[str, Value],
    lists: Mapping[str, tuple[Value, ...]],
    arrays: Mapping[str, tuple[int, int]],
    fault: Fault,
) -> None:
    """Raise what ``fault`` makes of the first thing that is wrong. ``arrays`` maps names to value type and length."""
    architecture = metadata.get("general.architecture")
    is_later_part = metadata.get("split.no", 0) not in (0, False)
    if not (isinstance(architecture, str) and architecture) and not is_later_part:
        raise fault("it names no architecture (general.architecture)")
    for name, (least, most) in BOUNDS.items():
        key = f"{architecture}.{name}"
        for value in _values(metadata.get(key), lists.get(key, ())):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise fault(f"{key} is {value!r:.80}, but lies between {least} and {most}; the file is corrupt")
    _check_relations(str(architecture), metadata, fault)
    _check_vocabulary(arrays, fault)


def _values(single: Value | None, several: Iterable[Value]) -> Iterable[Value]:
    return [single] if single is not None else several


def _check_relations(architecture: str, metadata: Mapping[str, Value], fault: Fault) -> None:
    """Refuse numbers that each may be right, but not together; llama.cpp asserts these, or divides by them."""

    def number(name: str, default: int = 0) -> int:
        value = metadata.get(f"{architecture}.{name}", default)
        return value if isinstance(value, int) else default

    prefixes = tuple(f"{architecture}.{key}" for key in _RECURRENT_KEYS)
    if number("attention.head_count", 1) == 0 and not any(key.startswith(prefixes) for key in metadata):
        raise fault(f"{architecture}.attention.head_count is 0, but it has no recurrent layers; the file is corrupt")
    used, there = number("expert_used_count"), number("expert_count")
    if used > there and not architecture.startswith("hunyuan"):  # which counts its one expert as none
        raise fault(f"{architecture}.expert_used_count is {used}, but there are {there} experts; the file is corrupt")
    extra, layers = number("nextn_predict_layers"), number("block_count", 512)
    if extra > layers:
        raise fault(
            f"{architecture}.nextn_predict_layers is {extra}, but there are {layers} layers; the file is corrupt"
        )


def _check_vocabulary(arrays: Mapping[str, tuple[int, int]], fault: Fault) -> None:
    tokens = arrays.get("tokenizer.ggml.tokens")
    if tokens is None:
        return
    kind, n_tokens = tokens
    if kind != TYPE_STRING:
        raise fault("tokenizer.ggml.tokens are no texts; the file is corrupt")
    for key, kinds in _TOKEN_ARRAYS.items():
        if key not in arrays:
            continue
        kind, count = arrays[key]
        if kind not in kinds:
            raise fault(f"{key} has values of type {kind}; the file is corrupt")
        if count < n_tokens:
            raise fault(f"{key} has {count} values for {n_tokens} tokens; the file is corrupt")


def alignment_of(metadata: Mapping[str, Value], fault: Fault) -> int:
    """Return ``general.alignment``, in bytes."""
    value = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise fault(f"general.alignment is {value!r:.80}, not a power of two up to {MAX_ALIGNMENT}")
    return value
