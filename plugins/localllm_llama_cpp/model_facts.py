"""What a model's header says of its sizes, layer by layer, as far as memory depends on it: no library, no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap

from .memory import BYTES_PER_VALUE, CacheShape

Number = bool | int | float
Lookup = Callable[[str], Number | Sequence[Number] | None]
"""Finds the number, or the numbers of all layers, under one of the architecture's own keys."""

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_LARGEST = 2**31 - 1

RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
"""Architectures without any KV cells (``llm_arch_is_recurrent``)."""

HYBRID = frozenset(
    {
        *("jamba", "falcon-h1", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe"),
        *("qwen3next", "qwen35", "qwen35moe", "kimi-linear"),
    }
)
"""Architectures of which some layers keep a running state and the others KV cells (``llm_arch_is_hybrid``)."""

_STATE_EVERYWHERE = frozenset({"falcon-h1"})  # every layer has both
_INTERVAL = 4  # qwen3next and its like: every fourth layer attends, where the file doesn't say otherwise

WINDOW_PERIODS: Mapping[str, int] = {
    "afmoe": 4,
    "cohere2": 4,
    "exaone4": 4,
    "gemma-embedding": 6,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "llama4": 4,
    "olmo2": 4,
    "plamo3": 8,
    "smallthinker": 4,
}
"""Architectures of which one layer in so many sees everything and the others a window (``load_swa_pattern`` calls)."""

_USUAL_WINDOWS: Mapping[str, int] = {"gemma2": 4096, "exaone4": 4096, "llama4": 8192, "smallthinker": 4096}
_NO_WINDOW = frozenset({"phi3"})  # its files have one that the library doesn't heed
_KEYS_OF_LATENT_ATTENTION = ("attention.key_length_mla", "attention.value_length_mla")


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One layer: how many numbers it caches for each position, and the float32 numbers of its running state."""

    keys: int
    values: int
    windowed: bool = False
    state: int = 0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's sizes. ``n_ff`` is the widest feed-forward layer that one token goes through, experts together."""

    architecture: str
    layers: tuple[LayerFacts, ...]
    n_vocab: int
    n_embd: int
    n_ff: int
    n_head: int
    head_size: int
    n_ctx_train: int
    n_swa: int = 0
    n_inner: int = 0  # width of the state space of recurrent layers
    n_expert: int = 0
    is_causal: bool = True  # each token sees only those before it

    @property
    def recurrent_only(self) -> bool:
        """Whether no layer has KV cells."""
        return self.architecture in RECURRENT

    @property
    def has_state(self) -> bool:
        """Whether some layers carry a running state."""
        return any(layer.state for layer in self.layers)

    @property
    def n_head_kv_values(self) -> int:
        """Numbers of one position's keys in the widest layer."""
        return max((layer.keys for layer in self.layers), default=0)

    def cache_shape(self, type_k: str, type_v: str) -> CacheShape:
        """Return what one position, and one sequence, costs in the cache (``llama_kv_cache``'s constructor)."""
        wide = sum(layer_bytes(layer, type_k, type_v) for layer in self.layers if not layer.windowed)
        narrow = sum(layer_bytes(layer, type_k, type_v) for layer in self.layers if layer.windowed)
        return CacheShape(
            cell_bytes=wide,
            window_cell_bytes=narrow,
            n_swa=self.n_swa,
            state_bytes=4.0 * sum(layer.state for layer in self.layers),
            recurrent_only=self.recurrent_only,
        )


def layer_bytes(layer: LayerFacts, type_k: str, type_v: str) -> float:
    """Return the bytes of one position in one layer's cache."""
    return layer.keys * BYTES_PER_VALUE[type_k] + layer.values * BYTES_PER_VALUE[type_v]


def read_facts(architecture: str, find: Lookup, n_vocab: int, n_swa: int | None = None) -> ModelFacts:
    """Put together what memory depends on. ``n_swa`` is what the library says of the window, None where it is not at
    hand.

    Raises ``ValueError`` when the header has no layers, no width, or absurd numbers.
    """
    n_layer, n_embd = _number(find, "block_count"), _number(find, "embedding_length")
    if not 1 <= n_layer <= MAX_LAYERS or n_embd < 1:
        message = f"its header says that it has {n_layer} layers of width {n_embd}"
        raise ValueError(message)
    heads = _per_layer(find, "attention.head_count", n_layer, 0)
    heads_kv = _per_layer(find, "attention.head_count_kv", n_layer, None) or heads
    window = _window(architecture, find) if n_swa is None else n_swa
    head_size = n_embd // max(1, *heads)
    layers = _Layers(architecture, find, n_layer, n_embd, head_size, window)
    return ModelFacts(
        architecture=architecture,
        layers=tuple(starmap(layers.layer, enumerate(heads_kv))),
        n_vocab=n_vocab,
        n_embd=n_embd,
        n_ff=_feed_forward(find, n_layer),
        n_head=max(heads),
        head_size=_number(find, "attention.key_length", head_size),
        n_ctx_train=_number(find, "context_length"),
        n_swa=window,
        n_inner=_number(find, "ssm.inner_size"),
        n_expert=_number(find, "expert_count"),
        is_causal=bool(_number(find, "attention.causal", 1)),
    )


class _Layers:
    """Tells the layers of one model apart."""

    def __init__(self, architecture: str, find: Lookup, n_layer: int, n_embd: int, head_size: int, window: int) -> None:
        self._architecture = architecture
        self._key_length = _number(find, "attention.key_length", head_size)
        self._value_length = _number(find, "attention.value_length", head_size)
        self._window_key_length = _number(find, "attention.key_length_swa", self._key_length)
        self._window_value_length = _number(find, "attention.value_length_swa", self._value_length)
        # Latent attention keeps one vector for keys and values.
        self._latent = any(_number(find, key) for key in _KEYS_OF_LATENT_ATTENTION)
        self._windowed = _windowed(architecture, find, n_layer) if window else [False] * n_layer
        self._caching = n_layer - _number(find, "attention.shared_kv_layers")  # the others use these layers' cells
        self._interval = _number(find, "full_attention_interval", _INTERVAL)
        self._state = _state_numbers(find, n_embd)

    def layer(self, index: int, n_head_kv: int) -> LayerFacts:
        architecture = self._architecture
        if architecture in RECURRENT:
            return LayerFacts(0, 0, state=self._state)
        windowed = self._windowed[index]
        keys = n_head_kv * (self._window_key_length if windowed else self._key_length)
        values = n_head_kv * (self._window_value_length if windowed else self._value_length)
        if architecture in HYBRID:
            if architecture in _STATE_EVERYWHERE:
                return LayerFacts(keys, values, state=self._state)
            interval = architecture.startswith("qwen3") and (index + 1) % max(1, self._interval) != 0
            if n_head_kv == 0 or interval:
                return LayerFacts(0, 0, state=self._state)
        if index >= self._caching:
            return LayerFacts(0, 0)
        return LayerFacts(keys, 0 if self._latent else values, windowed)


def _state_numbers(find: Lookup, n_embd: int) -> int:
    """One recurrent layer's state of one sequence (``llama_hparams::n_embd_r`` and ``n_embd_s``)."""
    if heads := _number(find, "wkv.head_size"):
        return n_embd * (heads + _number(find, "token_shift_count", 2))
    if width := _number(find, "shortconv.l_cache"):
        return n_embd * (width - 1)
    inner, state = _number(find, "ssm.inner_size"), _number(find, "ssm.state_size")
    kernel, groups = _number(find, "ssm.conv_kernel"), _number(find, "ssm.group_count")
    return max(0, kernel - 1) * (inner + 2 * groups * state) + state * inner


def _window(architecture: str, find: Lookup) -> int:
    """Return the width of the sliding window, as the library takes it: 0 where all layers see everything."""
    if architecture in _NO_WINDOW:
        return 0
    return _number(find, "attention.sliding_window", _USUAL_WINDOWS.get(architecture, 0))


def _windowed(architecture: str, find: Lookup, n_layer: int) -> list[bool]:
    """Return which layers see a window only: the file says it of each, or how many lie between those that see all."""
    key = "attention.sliding_window_pattern"
    pattern = find(key)
    if isinstance(pattern, Sequence):
        return [bool(is_windowed) for is_windowed in (*pattern, *[False] * n_layer)[:n_layer]]
    period = _number(find, key) or WINDOW_PERIODS.get(architecture, 1)
    return [period > 1 and index % period < period - 1 for index in range(n_layer)]


def _feed_forward(find: Lookup, n_layer: int) -> int:
    """Return the widest feed-forward layer; of experts, what those that a token goes to have together."""
    dense = max(_per_layer(find, "feed_forward_length", n_layer, 0))
    if not _number(find, "expert_count"):
        return dense
    experts = _number(find, "expert_used_count") * _number(find, "expert_feed_forward_length", dense)
    experts += _number(find, "expert_shared_feed_forward_length")
    return max(experts, dense if _number(find, "leading_dense_block_count") else 0)


def _per_layer(find: Lookup, key: str, n_layer: int, default: int | None) -> list[int]:
    """Return a number for each layer; nothing when there is none and no default."""
    found = find(key)
    if found is None:
        return [] if default is None else [default] * n_layer
    if isinstance(found, Sequence):
        numbers = [_size(number, key) for number in found[:n_layer]]
        return numbers + [numbers[-1] if numbers else 0] * (n_layer - len(numbers))
    return [_size(found, key)] * n_layer


def _number(find: Lookup, key: str, default: int = 0) -> int:
    found = find(key)
    if isinstance(found, Sequence):
        return max((_size(number, key) for number in found), default=default)
    return default if found is None else _size(found, key)


def _size(number: Number, key: str) -> int:
    if not 0 <= number <= _LARGEST:  # not a number neither
        message = f"its header has {number} under {key!r}"
        raise ValueError(message)
    return int(number)
