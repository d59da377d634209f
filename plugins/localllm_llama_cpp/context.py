"""Makes the library's context in the memory that there is, and says what it can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as lib

from localllm import Capabilities, ModelLoadError

from .header import ModelHeader
from .log import NativeLog
from .memory import MemoryPlan, Wanted, copy_cost_tokens, plan_memory
from .native_params import context_params, output_rows
from .settings import LlamaCppSettings

_ATTEMPTS = 6  # each with half of the memory of the one before


@dataclass(slots=True)
class NativeModel:
    """The library's handles, and what it keeps pointers to."""

    log: NativeLog
    model: Any
    context: Any = None
    keep_alive: Sequence[Any] = ()

    def close(self) -> None:
        """Free context and model. May be called twice."""
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
    model_bytes = int(lib.llama_model_size(native.model))
    for _ in range(_ATTEMPTS):
        native.log.forget_errors()
        plan = plan_memory(wanted, header.cache_shape(settings), budget_bytes)
        native.context = lib.llama_init_from_model(native.model, context_params(settings, plan, model_bytes))
        if native.context:
            break
        if "alloc" not in native.log.first_error:
            raise _refused(model_id, native, plan)
        budget_bytes = plan.kv_bytes // 2
    else:
        raise _refused(model_id, native, plan)
    if not lib.llama_get_memory(native.context):
        message = f"Model {model_id!r} keeps no memory of what it reads, so it can't write text."
        raise ModelLoadError(message)
    return plan


def _refused(model_id: str, native: NativeModel, plan: MemoryPlan) -> ModelLoadError:
    return ModelLoadError(
        f"llama.cpp can't make a context of {plan.n_ctx} KV cells for model {model_id!r}: "
        f"{native.log.first_error or 'it gave no reason'}. If memory is short, lower context_length or parallel."
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
        n_outputs_max=output_rows(plan),
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
