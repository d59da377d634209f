"""Facts that stand in a loaded model's header: sizes for the memory plan, sampling defaults, the chat template."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from .model_facts import ModelFacts, read_facts
from .sampling_defaults import SamplingDefaults
from .tensors import number_lists

_PER_LAYER = frozenset(
    {
        *("attention.head_count", "attention.head_count_kv", "attention.sliding_window_pattern"),
        "feed_forward_length",
    }
)
"""What may be one number, or one for each layer."""


class ModelHeader:
    """Read access to the header of a loaded model."""

    def __init__(self, model: Any, path: Path) -> None:  # noqa: ANN401  # llama_model pointer
        self._model = model
        self._path = path
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

    def facts(self) -> ModelFacts:
        """Return the model's sizes. Raises ``ValueError`` where the header is silent about them."""
        n_vocab = int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model)))
        return read_facts(self.architecture, self._find, n_vocab, self.n_swa)

    def _find(self, key: str) -> float | Sequence[float] | None:
        text = self.text(f"{self.architecture}.{key}")
        if text is None:
            return self._lists.get(f"{self.architecture}.{key}") if key in _PER_LAYER else None
        return float(text == "true") if text in ("true", "false") else self.number(f"{self.architecture}.{key}")

    @functools.cached_property
    def _lists(self) -> Mapping[str, Sequence[float]]:
        """What differs from layer to layer, which the library's API doesn't tell."""
        return number_lists(self._path, frozenset(f"{self.architecture}.{key}" for key in _PER_LAYER))
