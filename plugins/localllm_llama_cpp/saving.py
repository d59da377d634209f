"""How much of what falls out of the KV cache is kept, and what a state depends on beside its tokens."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import llama_cpp
import llama_cpp.llama_cpp as lib

from localllm import Capabilities, StateSaving

from .context import cache_shape
from .header import ModelHeader
from .loading import Loading
from .tensors import parts_of

_MEBIBYTE = 1024 * 1024
_SHARE_OF_FREE = 1 / 8  # of the memory that the weights leave
_CELL_BYTES = 2 * 12  # position and owner of a cell, in two caches where there is a window (state_write_meta)
_FRAME_BYTES = 32 * 1024  # types and widths of all layers
_SAMPLE_BYTES = _MEBIBYTE  # of a file's beginning, where its header is, and of its end

_DECISIVE = (
    *("cache_type_k", "cache_type_v", "flash_attention", "swa_full"),
    *("rope_scaling_type", "rope_freq_base", "rope_freq_scale"),
    *("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_orig_ctx"),
)
"""Settings that change what is computed for a token, or the form in which it is cached."""


def with_saving(capabilities: Capabilities, loading: Loading, header: ModelHeader) -> Capabilities:
    """Return what a context that was made can do, with what may be kept beside its KV cache: as the settings say."""
    settings = loading.settings
    ram_bytes = min(settings.saved_state_ram_mib * _MEBIBYTE, int(loading.unclaimed_bytes() * _SHARE_OF_FREE))
    disk_bytes = settings.saved_state_disk_mib * _MEBIBYTE
    if not ram_bytes and not disk_bytes:
        return capabilities
    shape = cache_shape(loading.request.model_id, header, settings)
    window = shape.window_cell_bytes
    per_token = shape.cell_bytes + (window if settings.swa_full else 0)
    per_sequence = shape.state_bytes + (0 if settings.swa_full else window * shape.n_swa)
    saving = StateSaving(
        ram_bytes=ram_bytes,
        bytes_per_token=math.ceil(per_token) + _CELL_BYTES,
        bytes_per_sequence=math.ceil(per_sequence) + _FRAME_BYTES,
        disk_bytes=disk_bytes,
        identity=_identity(loading, capabilities),
    )
    return replace(capabilities, saving=saving)


def _identity(loading: Loading, capabilities: Capabilities) -> str:
    """Return all that must be the same for a state to be of use, as text."""
    settings, native = loading.settings, loading.native
    facts = {
        "build": _build(),
        "model": [_file(part) for part in parts_of(loading.path)],
        "lora": [(*_file(adapter.file), adapter.scale) for adapter in settings.lora],
        "settings": {name: getattr(settings, name) for name in _DECISIVE},
        # Some models scale positions otherwise where a context is longer than they were trained for (longrope).
        "is_long": int(lib.llama_n_ctx_seq(native.context)) > int(lib.llama_model_n_ctx_train(native.model)),
        # The library's form counts its streams, and it takes back no other number of them.
        "streams": capabilities.n_seq_max if capabilities.layout == "streams" else 1,
    }
    return json.dumps(facts, sort_keys=True)


def _file(path: Path) -> tuple[int, int, str]:
    """Return size, time and a hash of beginning and end of a file: models are too large to be read for this."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(_SAMPLE_BYTES))
        file.seek(max(0, status.st_size - _SAMPLE_BYTES))
        digest.update(file.read(_SAMPLE_BYTES))
    return status.st_size, status.st_mtime_ns, digest.hexdigest()


def _build() -> list[tuple[str, int, int]]:
    """Return name, size and time of the library's files, which change with every build."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    return sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in folder.iterdir())
