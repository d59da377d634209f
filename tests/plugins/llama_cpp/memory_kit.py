"""Models of different shapes, each with what makes its memory different, for estimates to be held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localllm import Mode, ModelSpec
from localllm.models.discovery import examine_file
from localllm.models.headers import HeaderCache
from localllm.testing.tiny_encoder import write_tiny_bert
from localllm.testing.tiny_lora import write_tiny_lora
from localllm.testing.tiny_model import write_tiny_llama, write_tiny_mamba, write_tiny_sliding


@dataclass(frozen=True)
class Shape:
    """One model and how it is loaded; ``adapter_rank`` of the LoRA adapter that is loaded with it, 0 for none."""

    write: Callable[[Path], Path]
    mode: Mode = Mode.GENERATE
    settings: Mapping[str, Any] = field(default_factory=dict)
    adapter_rank: int = 0

    def make(self, folder: Path) -> ModelSpec:
        """Write its files, and return the model as the catalogue knows it."""
        path = self.write(folder / "model.gguf")
        settings = dict(self.settings)
        if self.adapter_rank:
            targets = [f"blk.{layer}.{name}.weight" for layer in range(2) for name in ("attn_q", "ffn_up", "ffn_down")]
            adapter = write_tiny_lora(folder / "adapter.gguf", path, rank=self.adapter_rank, targets=targets)
            settings["lora"] = [{"path": str(adapter)}]
        return spec_of(path, settings)


def dense(**sizes: Any) -> Callable[[Path], Path]:
    usual = {"n_embd": 256, "n_layer": 2, "n_head": 4, "n_head_kv": 4, "n_ff": 1024, "n_ctx": 2048}
    return lambda path: write_tiny_llama(path, **{**usual, "quantization": "q8_0", "tie_embeddings": True, **sizes})


SHAPES = {
    "dense, small vocabulary": Shape(dense(n_vocab=2048)),
    "dense, large vocabulary": Shape(dense(n_vocab=64_000)),
    "grouped queries, deep": Shape(dense(n_vocab=2048, n_layer=12, n_head=8, n_head_kv=2, n_embd=512, n_ff=1536)),
    "long context": Shape(dense(n_vocab=2048, n_head_kv=1), settings={"context_length": 65_536}),
    "streams": Shape(dense(n_vocab=2048), settings={"parallel": 16, "context_length": 1024, "kv_layout": "streams"}),
    "no flash attention": Shape(dense(n_vocab=2048), settings={"flash_attention": False, "parallel": 1}),
    "adapter": Shape(dense(n_vocab=2048), adapter_rank=1024),
    "quantised cache": Shape(dense(n_vocab=2048, n_layer=8), settings={"cache_type_k": "q8_0", "cache_type_v": "q8_0"}),
    "sliding window": Shape(lambda path: write_tiny_sliding(path, n_embd=256, n_vocab=2048, n_ctx=8192, window=512)),
    "recurrent": Shape(lambda path: write_tiny_mamba(path, n_embd=512, n_layer=4, n_vocab=2048, n_ctx=2048)),
    "encoder": Shape(
        lambda path: write_tiny_bert(path, n_embd=384, n_layer=6, n_head=12, n_ff=1536, n_ctx=512), Mode.POOL
    ),
    "encoder, long texts": Shape(
        lambda path: write_tiny_bert(path, n_embd=256, n_layer=2, n_head=4, n_ff=1024, n_ctx=4096), Mode.POOL
    ),
    "decoder that pools": Shape(dense(n_vocab=32_000, pooling_type=3), Mode.POOL),
    "decoder that pools, adapter": Shape(dense(n_vocab=2048, pooling_type=3), Mode.POOL, adapter_rank=1024),
}


def spec_of(path: Path, settings: Mapping[str, Any]) -> ModelSpec:
    """Return the model as the catalogue knows it: with its header's facts."""
    found = examine_file(path, HeaderCache())
    assert found is not None
    return ModelSpec("model", "llama_cpp", found.kind, str(path), settings=settings, meta=found.meta)
