"""Facts that stand in a loaded model's header: sizes for the memory plan, sampling defaults, the chat template."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import llama_cpp.llama_cpp as lib

from .memory import BYTES_PER_VALUE, CacheShape
from .sampling_defaults import SamplingDefaults
from .settings import LlamaCppSettings

WINDOW_PERIODS = {
    "afmoe": 4,
    "cohere2": 4,
    "exaone4": 4,
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


class ModelHeader:
    """Read access to the header of a loaded model."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401  # llama_model pointer
        self._model = model
        self.architecture = self.text("general.architecture") or "unknown"

    def text(self, key: str) -> str | None:
        """Return a scalar header value as text, or None when the file has none (or an array) under ``key``."""
        name = key.encode()
        size = lib.llama_model_meta_val_str(self._model, name, None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        lib.llama_model_meta_val_str(self._model, name, buffer, size + 1)
        return buffer.value.decode("utf-8", errors="replace")

    def number(self, key: str) -> float | None:
        """Return a finite numeric header value, or None."""
        text = self.text(key)
        try:
            value = float(text) if text is not None else math.nan
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def own(self, key: str, default: int = 0) -> int:
        """Return the integer under the architecture's own ``key``, for instance "attention.key_length"."""
        value = self.number(f"{self.architecture}.{key}")
        return default if value is None else int(value)

    @property
    def chat_template(self) -> str | None:
        """The default chat template's source."""
        return self.template(None)

    def template(self, name: str | None) -> str | None:
        """The source of the template that the file has under ``name``, for instance "rerank"; None: the default."""
        source = lib.llama_model_chat_template(self._model, name.encode() if name else None)
        return source.decode("utf-8", errors="replace") if source else None

    @property
    def description(self) -> str:
        """The library's one-line description, for instance "llama 1B Q8_0"."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode("utf-8", errors="replace")

    @property
    def n_swa(self) -> int:
        """Width of the sliding window in tokens; 0 where all layers see everything."""
        return int(lib.llama_model_n_swa(self._model))

    @property
    def is_recurrent(self) -> bool:
        """Whether some layers carry a running state instead of, or beside, a KV cache."""
        return bool(lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model))

    def sampling_defaults(self) -> SamplingDefaults:
        """Return the sampling parameters that the file recommends, completed with the usual ones."""
        usual = SamplingDefaults()

        def recommended(name: str, default: float, valid: Callable[[float], bool]) -> float:
            value = self.number(f"general.sampling.{name}")
            return value if value is not None and valid(value) else default

        return SamplingDefaults(
            temperature=recommended("temp", usual.temperature, lambda value: value >= 0),
            top_k=int(recommended("top_k", usual.top_k, lambda value: value < 2**31)),
            top_p=recommended("top_p", usual.top_p, lambda value: 0 <= value <= 1),
            min_p=recommended("min_p", usual.min_p, lambda value: 0 <= value <= 1),
        )

    def cache_shape(self, settings: LlamaCppSettings) -> CacheShape:
        """Return what one position costs in the KV cache (``llama_kv_cache``'s constructor).

        Layers whose sizes differ are counted like the first one: header arrays are out of the API's reach.
        """
        n_layer = int(lib.llama_model_n_layer(self._model))
        recurrent_only = bool(lib.llama_model_is_recurrent(self._model))
        layer_bytes = self._layer_bytes(settings)
        period = self.own("attention.sliding_window_pattern", WINDOW_PERIODS.get(self.architecture, 1))
        windowed = n_layer - n_layer // period if self.n_swa > 0 and period > 1 else 0
        return CacheShape(
            cell_bytes=0.0 if recurrent_only else (n_layer - windowed) * layer_bytes,
            window_cell_bytes=windowed * layer_bytes,
            n_swa=self.n_swa,
            state_bytes=n_layer * self._state_bytes() if self.is_recurrent else 0.0,
            recurrent_only=recurrent_only,
        )

    def _layer_bytes(self, settings: LlamaCppSettings) -> float:
        n_head_kv = int(lib.llama_model_n_head_kv(self._model))
        head_size = int(lib.llama_model_n_embd(self._model)) // max(1, int(lib.llama_model_n_head(self._model)))
        keys = n_head_kv * self.own("attention.key_length", head_size)
        values = n_head_kv * self.own("attention.value_length", head_size)
        if self.own("attention.key_length_mla"):  # latent attention keeps one vector for keys and values
            values = 0
        return keys * BYTES_PER_VALUE[settings.cache_type_k] + values * BYTES_PER_VALUE[settings.cache_type_v]

    def _state_bytes(self) -> float:
        """One recurrent layer's state of one sequence, float32 (``llama_hparams::n_embd_r`` and ``n_embd_s``)."""
        inner, state = self.own("ssm.inner_size"), self.own("ssm.state_size")
        kernel, groups = self.own("ssm.conv_kernel"), self.own("ssm.group_count")
        values = max(0, kernel - 1) * (inner + 2 * groups * state) + state * inner
        heads = self.own("wkv.head_size")
        n_embd = int(lib.llama_model_n_embd(self._model))
        return 4.0 * (values or n_embd * (heads + 2))
