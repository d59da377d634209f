"""LoRA adapters for the tiny models: random low-rank changes of some weights, and models with them merged in."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

TARGETS = ("blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.1.attn_v.weight")


def write_tiny_lora(
    path: Path,
    base: Path,
    *,
    seed: int = 1,
    rank: int = 4,
    alpha: float = 8.0,
    targets: Sequence[str] = TARGETS,
    architecture: str = "llama",
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Write an adapter for the model in ``base`` to ``path`` and return it.

    It adds ``alpha / rank`` times ``B A`` to each of ``targets``, with random ``A`` (rank x inputs) and ``B`` (outputs
    x rank). ``metadata`` adds or replaces header keys: strings, or lists of token ids.
    """
    import gguf
    import numpy as np

    shapes = {tensor.name: tuple(map(int, tensor.shape)) for tensor in gguf.GGUFReader(base).tensors}
    writer = gguf.GGUFWriter(path, architecture)
    keys = {"general.type": "adapter", "adapter.type": "lora", **(metadata or {})}
    for key, value in keys.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        else:
            kind = gguf.GGUFValueType
            writer.add_key_value(key, list(value), kind.ARRAY, sub_type=kind.UINT32)
    writer.add_float32("adapter.lora.alpha", alpha)
    rng = np.random.default_rng(seed)
    for name in targets:
        n_inputs, n_outputs = shapes[name]
        writer.add_tensor(f"{name}.lora_a", _normal(rng, rank, n_inputs))
        writer.add_tensor(f"{name}.lora_b", _normal(rng, n_outputs, rank))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merge_loras(target: Path, base: Path, adapters: Sequence[tuple[Path, float]]) -> Path:
    """Write ``base`` (float32 weights) with each adapter added, ``scale`` times, to ``target`` and return it."""
    import gguf

    shutil.copyfile(base, target)
    merged = {tensor.name: tensor.data for tensor in gguf.GGUFReader(target, "r+").tensors}  # views of the file
    for path, scale in adapters:
        reader = gguf.GGUFReader(path)
        parts = {tensor.name: tensor.data for tensor in reader.tensors}
        field = reader.fields["adapter.lora.alpha"]
        alpha = float(field.parts[field.data[0]][0])
        for name in {part.rpartition(".")[0] for part in parts}:
            a, b = parts[f"{name}.lora_a"], parts[f"{name}.lora_b"]
            merged[name] += (b @ a) * (scale * alpha / a.shape[0])
    return target


def _normal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    import numpy as np

    values = rng.standard_normal((rows, columns), dtype=np.float32)
    return values * np.float32(0.5 / columns**0.5)
