"""Makes the library's context in the memory that there is, and says what it can do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as lib

from localllm import Capabilities, ModelFileError, ModelLoadError

from .adapters import NO_ADAPTERS, Adapters
from .compute_memory import output_rows
from .header import ModelHeader
from .huge_pages import HugePages
from .log import Buffer, NativeLog
from .memory import CacheShape, MemoryPlan, Wanted, copy_cost_tokens, plan_memory
from .native_params import context_params, uses_gpu
from .settings import LlamaCppSettings

_ATTEMPTS = 6  # each with half of the memory of the one before
_NO_MEMORY = re.compile(r"alloc|out of memory|OutOf(Device|Host)Memory|insufficient memory", re.IGNORECASE)
"""As the backends write it: "cudaMalloc failed: out of memory", "ErrorOutOfDeviceMemory", "unable to allocate"."""


@dataclass(slots=True)
class NativeModel:
    """The library's handles, and what it keeps pointers to."""

    log: NativeLog
    model: Any
    context: Any = None
    keep_alive: Sequence[Any] = ()
    buffers: tuple[Buffer, ...] = ()  # what the library took
    adapters: Adapters = NO_ADAPTERS
    huge_pages: HugePages | None = None

    def close(self) -> None:
        """Free context and model. May be called twice."""
        if self.huge_pages is not None:
            self.huge_pages.close()
        if self.context is not None:
            lib.llama_free(self.context)
        if self.model is not None:
            lib.llama_model_free(self.model)
        self.context = self.model = None


def make_context(
    model_id: str, native: NativeModel, header: ModelHeader, settings: LlamaCppSettings, budget_bytes: int
) -> MemoryPlan:
    """Give ``native`` its context, whose KV cache takes at most ``budget_bytes``, and return how it was planned.

    The budget is the computer's memory. A GPU may have less: what can't be allocated is planned anew with half of it.
    Raises ``ModelLoadError``.
    """
    if lib.llama_model_has_encoder(native.model) or not lib.llama_model_has_decoder(native.model):
        message = f"Model {model_id!r} does not write text by itself: it is not a decoder-only model."
        raise ModelLoadError(message)
    wanted = _wanted(native, settings)
    shape = cache_shape(model_id, header, settings)
    model_bytes = int(lib.llama_model_size(native.model))
    for _ in range(_ATTEMPTS):
        native.log.forget_errors()
        native.log.listen()
        plan = plan_memory(wanted, shape, budget_bytes)
        native.context = lib.llama_init_from_model(native.model, context_params(settings, plan, model_bytes))
        buffers = native.log.heard()
        if native.context:
            native.buffers += buffers
            break
        if not lacks_memory(native.log.first_error):
            raise _refused(model_id, native, settings, plan)
        budget_bytes = plan.kv_bytes // 2
    else:
        raise _refused(model_id, native, settings, plan)
    if not lib.llama_get_memory(native.context):
        message = f"Model {model_id!r} keeps no memory of what it reads, so it can't write text."
        raise ModelLoadError(message)
    return plan


def cache_shape(model_id: str, header: ModelHeader, settings: LlamaCppSettings) -> CacheShape:
    """Return what the model's cache costs. Raises ``ModelFileError`` where its header says nothing of it."""
    try:
        return header.facts().cache_shape(settings.cache_type_k, settings.cache_type_v)
    except ValueError as error:
        message = f"The file of model {model_id!r} can't be used: {error}."
        raise ModelFileError(message) from error


def lacks_memory(error: str) -> bool:
    """Whether an error of the library speaks of memory that was not there."""
    return _NO_MEMORY.search(error) is not None


def memory_detail(reason: str, *, uses_gpu: bool) -> dict[str, object]:
    """Return the detail of a load error by which the host knows whether another try with less may do.

    {} for errors of other kinds. ``device`` "cpu" says that fewer layers on a GPU would not help.
    """
    if not lacks_memory(reason):
        return {}
    return {"reason": "memory"} if uses_gpu else {"reason": "memory", "device": "cpu"}


def _refused(model_id: str, native: NativeModel, settings: LlamaCppSettings, plan: MemoryPlan) -> ModelLoadError:
    reason = native.log.first_error
    return ModelLoadError(
        f"llama.cpp can't make a context of {plan.n_ctx} KV cells for model {model_id!r}: "
        f"{reason or 'it gave no reason'}. If memory is short, lower context_length or parallel.",
        detail=memory_detail(reason, uses_gpu=uses_gpu(settings)),
    )


def describe_context(
    native: NativeModel, header: ModelHeader, settings: LlamaCppSettings, plan: MemoryPlan
) -> Capabilities:
    """Return what the context can do, as the library made it: it rounds sizes (llama.h, llama_n_ctx and its like)."""
    n_ctx, n_ctx_seq = int(lib.llama_n_ctx(native.context)), int(lib.llama_n_ctx_seq(native.context))
    recurrent_only = bool(lib.llama_model_is_recurrent(native.model))
    # One pool gives away cells behind any sequence's window, so only streams keep what a full-size window promises.
    keeps_window = header.n_swa == 0 or (settings.swa_full and plan.layout == "streams")
    return Capabilities(
        context_length=min(plan.context_length, n_ctx_seq),
        n_cells=plan.context_length * plan.n_seq_max if recurrent_only else n_ctx,
        n_seq_max=int(lib.llama_n_seq_max(native.context)),
        n_batch=int(lib.llama_n_batch(native.context)),
        parallel=plan.parallel,
        layout=plan.layout,
        can_truncate=keeps_window and not header.is_recurrent,
        can_copy=True,
        copy_cost_tokens=copy_cost_tokens(n_ctx_seq) if plan.layout == "streams" and not recurrent_only else 0,
        n_outputs_max=output_rows(plan.n_seq_max),
        step_seconds=settings.max_step_ms / 1000,
        can_score=True,
    )


def _wanted(native: NativeModel, settings: LlamaCppSettings) -> Wanted:
    return Wanted(
        context_length=settings.context_length,
        n_ctx_train=int(lib.llama_model_n_ctx_train(native.model)),
        parallel=settings.parallel,
        cached_sequences=settings.cached_sequences,
        layout=settings.kv_layout,
        n_ubatch=settings.n_ubatch,
        swa_full=settings.swa_full,
    )
