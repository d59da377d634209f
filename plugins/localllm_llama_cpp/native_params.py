"""Turns settings into the library's parameter structures."""

from __future__ import annotations

from typing import Any

import llama_cpp.llama_cpp as lib

from localllm import PoolingKind

from .compute_memory import output_rows
from .hardware import physical_cores
from .memory import MemoryPlan
from .pool_memory import PoolPlan
from .settings import LlamaCppSettings

# enum ggml_type (ggml.h)
_GGML_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
_SPLIT_MODES = {
    "none": lib.LLAMA_SPLIT_MODE_NONE,
    "layer": lib.LLAMA_SPLIT_MODE_LAYER,
    "row": lib.LLAMA_SPLIT_MODE_ROW,
}
# enum llama_rope_scaling_type (llama.h)
_ROPE_SCALING_TYPES = {"model": -1, "none": 0, "linear": 1, "yarn": 2, "longrope": 3}
_POOLING_TYPES: dict[PoolingKind, int] = {"mean": 1, "cls": 2, "last": 3, "rank": 4}  # enum llama_pooling_type
_N_BATCH_CPU = 512  # one micro-batch: on a CPU larger steps are no faster, and a cancel waits for the step to end
_N_BATCH_GPU = 2048
_BYTES_PER_THREAD = 8 * 1024 * 1024  # of weights: less is read and multiplied faster than two threads can meet


def model_params(settings: LlamaCppSettings, *, safe_mode: bool) -> tuple[Any, list[Any]]:
    """Return ``llama_model_params``, and the objects that must live as long as the model."""
    params = lib.llama_model_default_params()
    params.n_gpu_layers = -1 if settings.n_gpu_layers == "auto" else settings.n_gpu_layers
    params.split_mode = _SPLIT_MODES[settings.split_mode]
    params.main_gpu = settings.main_gpu
    # enum llama_load_mode: NONE 0, MMAP 1, MLOCK 2, MMAP_MLOCK 3
    params.load_mode = int(settings.mmap) + 2 * int(settings.mlock)
    if safe_mode:
        params.use_extra_bufts = False  # no AMX and no repacked weights: half the speed, right results
    keep_alive: list[Any] = []
    if settings.tensor_split:
        shares = (lib.ctypes.c_float * int(lib.llama_max_devices()))(*settings.tensor_split)
        params.tensor_split = shares
        keep_alive.append(shares)
    return params, keep_alive


def default_threads(model_bytes: int, cores: int) -> int:
    """Return how many threads a model of this size keeps busy, at least 1 and at most ``cores``.

    The threads of one step wait for each other after every layer. For a small model that costs more than sharing the
    work brings, and on a busy machine, where any of them may have to wait for a core, a hundred times as much.
    """
    return max(1, min(cores, model_bytes // _BYTES_PER_THREAD))


def context_params(settings: LlamaCppSettings, plan: MemoryPlan, model_bytes: int) -> Any:  # noqa: ANN401
    """Return ``llama_context_params`` for a plan, to write text."""
    params = _common_params(settings, model_bytes)
    params.n_ctx = plan.n_ctx
    params.n_seq_max = plan.n_seq_max
    params.kv_unified = plan.layout == "unified"
    params.n_batch = settings.n_batch or (_N_BATCH_GPU if uses_gpu(settings) else _N_BATCH_CPU)
    params.n_ubatch = settings.n_ubatch
    params.n_outputs_max = output_rows(plan.n_seq_max)  # the library asserts on more
    return params


def pool_context_params(
    settings: LlamaCppSettings,
    plan: PoolPlan,
    kind: PoolingKind,
    model_bytes: int,
) -> Any:  # noqa: ANN401
    """Return ``llama_context_params`` for a plan, to pool texts."""
    params = _common_params(settings, model_bytes)
    params.embeddings = True
    params.pooling_type = _POOLING_TYPES[kind]
    params.n_ctx = plan.n_cells
    params.n_seq_max = plan.batch_texts
    params.kv_unified = True  # texts need cells only while they are computed: any of them may take all
    params.n_batch = params.n_ubatch = plan.micro_batch
    if not plan.cut_texts:
        params.type_k = params.type_v = _GGML_TYPES["f16"]  # unused, but checked against the width of the model
    return params


def _common_params(settings: LlamaCppSettings, model_bytes: int) -> Any:  # noqa: ANN401
    threads = settings.threads or default_threads(model_bytes, physical_cores())
    params = lib.llama_context_default_params()
    params.n_threads = threads
    params.n_threads_batch = settings.threads_batch or threads
    params.flash_attn_type = -1 if settings.flash_attention == "auto" else int(settings.flash_attention)
    params.type_k = _GGML_TYPES[settings.cache_type_k]
    params.type_v = _GGML_TYPES[settings.cache_type_v]
    params.offload_kqv = settings.offload_kqv
    params.swa_full = settings.swa_full
    params.no_perf = True
    params.rope_scaling_type = _ROPE_SCALING_TYPES[settings.rope_scaling_type]
    params.rope_freq_base = settings.rope_freq_base
    params.rope_freq_scale = settings.rope_freq_scale
    params.yarn_ext_factor = settings.yarn_ext_factor
    params.yarn_attn_factor = settings.yarn_attn_factor
    params.yarn_beta_fast = settings.yarn_beta_fast
    params.yarn_beta_slow = settings.yarn_beta_slow
    params.yarn_orig_ctx = settings.yarn_orig_ctx
    return params


def uses_gpu(settings: LlamaCppSettings) -> bool:
    """Whether layers go to a GPU: some are wanted there (as planned), and the build knows how."""
    return settings.n_gpu_layers != 0 and bool(lib.llama_supports_gpu_offload())
