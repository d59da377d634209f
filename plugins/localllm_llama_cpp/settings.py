"""The keys of ``[plugin.llama_cpp]``, which ``[models.define.<id>]`` may give anew for one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from localllm import setting

from .adapter_settings import AdapterSettings, check_adapters
from .format_presets import PRESETS

MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ (src/llama-cparams.h)

KvLayoutSetting = Literal["auto", "unified", "streams"]
CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
SplitMode = Literal["none", "layer", "row"]
PoolingSetting = Literal["auto", "mean", "cls", "last", "rank"]
RopeScalingType = Literal["model", "none", "linear", "yarn", "longrope"]

_SMALLEST_SHARE, _LARGEST_SHARE = 1e-6, 1e15  # bytes will do, infinity won't: the library counts in float32

UNQUANTIZED_CACHE_TYPES = frozenset({"f32", "f16", "bf16"})


@dataclass(frozen=True, slots=True)
class LlamaCppSettings:
    """``[plugin.llama_cpp]``: how models are loaded, for all of them unless a model says otherwise."""

    context_length: int = setting(
        0,
        "Tokens that one request may use, prompt and answer together; 0: the model's own, as memory allows.",
        minimum=0,
    )
    parallel: int = setting(4, "Answers that are written at the same time.", minimum=1, maximum=MAX_SEQUENCES)
    cached_sequences: int = setting(
        8, "Finished sequences that stay for reuse, beside the running ones.", minimum=0, maximum=MAX_SEQUENCES - 1
    )
    kv_layout: KvLayoutSetting = setting("auto", "KV cells as one pool ('unified') or a share for each ('streams').")
    n_batch: int = setting(0, "Tokens in one step, at most; 0: 512 on a CPU, 2048 on a GPU.", minimum=0)
    n_ubatch: int = setting(
        512, "Tokens that the library computes at once; larger steps are cut into these.", minimum=1
    )
    max_step_ms: float = setting(
        200.0,
        "Longest step, in milliseconds, while answers are written: bounds how much of a prompt rides along.",
        minimum=1,
    )
    pooling: PoolingSetting = setting(
        "auto",
        "How an embedding or reranking model's text becomes one vector or score: 'auto' (as the file says), 'mean', "
        "'cls', 'last' or 'rank'.",
    )
    pool_batch_tokens: int = setting(
        0,
        "Tokens of short texts that are embedded or ranked at once; 0: 256 on a CPU, 2048 on a GPU.",
        minimum=0,
    )
    memory_fraction: float = setting(
        0.75,
        "Share of the free memory that the KV cache, or a long text that is embedded, may take.",
        minimum=0.05,
        maximum=1.0,
    )
    saved_state_ram_mib: int = setting(
        512,
        "Memory, in MiB, for conversations that are kept and have no room left in the KV cache; never more than an "
        "eighth of what is free; 0: they are evaluated again.",
        minimum=0,
    )
    saved_state_disk_mib: int = setting(
        2048,
        "Disk space, in MiB, for what was evaluated of kept conversations when a model is unloaded, all models "
        "together; 0: nothing is written.",
        minimum=0,
    )
    n_gpu_layers: Literal["auto"] | int = setting(
        "auto",
        "Layers on the GPU, the output layer counted: 'auto' (as many as fit), -1 (all) or a number.",
        minimum=-1,
    )
    main_gpu: int = setting(0, "The GPU for everything when split_mode is 'none', the first being 0.", minimum=0)
    split_mode: SplitMode = setting(
        "layer",
        "How several GPUs share a model that one can't hold: 'layer' or 'row'; 'none': all on main_gpu.",
    )
    tensor_split: list[float] = setting(
        [], "Share of the model for each GPU, for instance [3, 1]; empty: as it fits, on one GPU if that is enough."
    )
    offload_kqv: bool = setting(True, "Keep the KV cache on the GPU beside the layers that are there.")
    threads: int = setting(
        0,
        "Threads for single tokens; 0: the physical cores that this process may use, fewer for tiny models.",
        minimum=0,
    )
    threads_batch: int = setting(0, "Threads for prompts and batches; 0: as 'threads'.", minimum=0)
    flash_attention: Literal["auto"] | bool = setting("auto", "Use flash attention: 'auto', true or false.")
    cache_type_k: CacheType = setting(
        "f16", "Number type of cached keys: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl."
    )
    cache_type_v: CacheType = setting(
        "f16", "Number type of cached values, as cache_type_k; quantised ones need flash attention."
    )
    mmap: bool = setting(True, "Map the file into memory instead of reading it: loads faster, shares its pages.")
    huge_pages: bool = setting(
        True,
        "Bring a model's memory into huge pages while it serves: single tokens come sooner, by 5 to 15 % where it was "
        "measured. A mapped file's memory is then the worker's own, not shared, and swapped out where it could be "
        "dropped before. Linux, without a GPU or mlock, where there is memory to spare.",
    )
    mlock: bool = setting(False, "Keep the model in memory, so that the system can't swap it out.")
    swa_full: bool = setting(
        False,
        "Sliding-window models: keep all positions, so that prefixes can be reused; costs memory; streams layout.",
    )
    chat_format: str = setting(
        "", "How the model writes thoughts and calls: a preset's name, such as 'qwen3'; empty: found in its template."
    )
    chat_template_file: Path | None = setting(
        None, "A file with a chat template (Jinja) that replaces the model's own; absent: its own."
    )
    lora: list[AdapterSettings] = setting(
        [],
        "LoRA adapters that are loaded with the model: tables of path, scale (1.0; 0: only in requests that ask for "
        "it) and name (that of its file).",
    )
    seed: int | None = setting(
        None, "Draws of requests without a seed follow from it; absent: random.", minimum=0, maximum=0xFFFFFFFF
    )
    rope_scaling_type: RopeScalingType = setting(
        "model", "RoPE scaling: 'model' (as the file says), 'none', 'linear', 'yarn', 'longrope'."
    )
    rope_freq_base: float = setting(0.0, "RoPE base frequency; 0: the model's.", minimum=0)
    rope_freq_scale: float = setting(
        0.0, "RoPE frequency scale, 1/4 for a context 4 times as long; 0: the model's.", minimum=0
    )
    yarn_ext_factor: float = setting(-1.0, "YaRN extrapolation mix; negative: the model's.")
    yarn_attn_factor: float = setting(-1.0, "YaRN attention magnitude; negative: the model's.")
    yarn_beta_fast: float = setting(-1.0, "YaRN low correction dimension; negative: the model's.")
    yarn_beta_slow: float = setting(-1.0, "YaRN high correction dimension; negative: the model's.")
    yarn_orig_ctx: int = setting(0, "Context length that YaRN counts from; 0: the model's.", minimum=0)

    def __post_init__(self) -> None:
        """Check what types and bounds alone can't say. Raises ``ValueError``."""
        _choice("kv_layout", self.kv_layout, KvLayoutSetting)
        _choice("cache_type_k", self.cache_type_k, CacheType)
        _choice("cache_type_v", self.cache_type_v, CacheType)
        _choice("split_mode", self.split_mode, SplitMode)
        _choice("pooling", self.pooling, PoolingSetting)
        _choice("rope_scaling_type", self.rope_scaling_type, RopeScalingType)
        if self.chat_format and self.chat_format not in PRESETS:
            message = (
                f"chat_format is {self.chat_format!r}; leave it empty, or use one of: {', '.join(sorted(PRESETS))}"
            )
            raise ValueError(message)
        if not isinstance(self.flash_attention, bool) and self.flash_attention != "auto":
            message = f"flash_attention is {self.flash_attention!r}; use 'auto', true or false"
            raise ValueError(message)
        if self.flash_attention is False and self.cache_type_v not in UNQUANTIZED_CACHE_TYPES:
            message = (
                f"cache_type_v is {self.cache_type_v!r}, which needs flash attention; "
                "leave out 'flash_attention = false', or use cache_type_v = 'f16'"
            )
            raise ValueError(message)
        if self.parallel + self.cached_sequences > MAX_SEQUENCES:
            message = (
                f"parallel ({self.parallel}) and cached_sequences ({self.cached_sequences}) are more than "
                f"{MAX_SEQUENCES} together, llama.cpp's limit; lower one of them"
            )
            raise ValueError(message)
        if self.n_gpu_layers != "auto" and not isinstance(self.n_gpu_layers, int):
            message = f"n_gpu_layers is {self.n_gpu_layers!r}; use 'auto', -1 or a number"
            raise ValueError(message)
        check_adapters(self.lora)
        if not all(share == 0 or _SMALLEST_SHARE <= share <= _LARGEST_SHARE for share in self.tensor_split):
            message = f"tensor_split is {self.tensor_split}; use positive numbers, for instance [3, 1], or 0 for none"
            raise ValueError(message)
        if self.swa_full and self.kv_layout == "unified":
            # One pool gives away cells behind any sequence's window, full size or not (llama_kv_cache::find_slot).
            message = (
                "swa_full needs a layout where each sequence has cells of its own; use kv_layout = 'streams' or 'auto'"
            )
            raise ValueError(message)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> LlamaCppSettings:
        """Build from plain JSON. Raises ``ValueError`` for a wrong value, ``TypeError`` for an unknown key."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            message = f"llama_cpp has no setting {unknown[0]!r}"
            raise TypeError(message)
        typed = dict(values)
        if values.get("chat_template_file") is not None:
            typed["chat_template_file"] = Path(values["chat_template_file"])
        if "lora" in values:
            typed["lora"] = [AdapterSettings(**{**one, "path": Path(one.get("path") or "")}) for one in values["lora"]]
        return cls(**typed)


def _choice(key: str, value: object, kind: object) -> None:
    allowed = get_args(kind)
    if value not in allowed:
        message = f"{key} is {value!r}; use one of: {', '.join(allowed)}"
        raise ValueError(message)
