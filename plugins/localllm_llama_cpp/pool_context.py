"""Makes the library's context for pooling: first planned by the header, then held against what it turned out to be."""

from __future__ import annotations

import llama_cpp.llama_cpp as lib

from localllm import ModelLoadError, PoolingKind

from .context import NativeModel, cache_shape, lacks_memory, memory_detail
from .header import ModelHeader
from .memory import CacheShape
from .native_params import pool_context_params, uses_gpu
from .pool_memory import BATCH_TOKENS_CPU, BATCH_TOKENS_GPU, PoolPlan, PoolShape, PoolWanted, plan_pool, pool_bytes
from .pooling_rules import ENCODERS, LEARNED_POSITIONS, why_not
from .settings import LlamaCppSettings

_ATTEMPTS = 6  # each with half of the memory of the one before


def check_can_pool(model_id: str, native: NativeModel, header: ModelHeader) -> None:
    """Raise ``ModelLoadError`` for a model that has no vector for a text."""
    reason = why_not(header.architecture)
    if reason is None and lib.llama_model_has_encoder(native.model) and lib.llama_model_has_decoder(native.model):
        reason = "its encoder writes for its decoder alone"
    if reason is not None:
        message = (
            f"Model {model_id!r} can't give embeddings or scores: its architecture is {header.architecture!r}, "
            f"and {reason}."
        )
        raise ModelLoadError(message)


def make_pool_context(
    model_id: str,
    native: NativeModel,
    header: ModelHeader,
    settings: LlamaCppSettings,
    kind: PoolingKind,
    budget_bytes: int,
) -> PoolPlan:
    """Give ``native`` its context, made so that its longest text takes at most ``budget_bytes``; return the plan.

    The budget is the computer's memory. A GPU may have less: what can't be allocated is planned anew with half of it.
    Raises ``ModelLoadError``.
    """
    cut_texts = (
        header.architecture not in ENCODERS and header.text(f"{header.architecture}.attention.causal") != "false"
    )
    for _ in range(_ATTEMPTS):
        plan, shape = _plan(model_id, native, header, settings, budget_bytes, cut_texts=cut_texts)
        native.log.forget_errors()
        native.log.listen()
        model_bytes = int(lib.llama_model_size(native.model))
        params = pool_context_params(settings, plan, kind, model_bytes)
        native.context = lib.llama_init_from_model(native.model, params)
        buffers = native.log.heard()
        if not native.context:
            if not lacks_memory(native.log.first_error):
                break
            budget_bytes = int(pool_bytes(plan, shape)) // 2
        elif _can_cut(native) == cut_texts:
            native.buffers += buffers
            return plan
        else:  # the header did not say how the model attends
            cut_texts = not cut_texts
            lib.llama_free(native.context)
            native.context = None
    message = (
        f"llama.cpp can't make a context for texts of {plan.context_length} tokens for model {model_id!r}: "
        f"{native.log.first_error or 'it gave no reason'}. If memory is short, lower context_length."
    )
    raise ModelLoadError(message, detail=memory_detail(native.log.first_error, uses_gpu=uses_gpu(settings)))


def _can_cut(native: NativeModel) -> bool:
    """Whether a text may be computed in pieces: the context remembers what came before, and looks back only."""
    return bool(lib.llama_get_memory(native.context)) and bool(lib.llama_get_causal_attn(native.context))


def _plan(
    model_id: str,
    native: NativeModel,
    header: ModelHeader,
    settings: LlamaCppSettings,
    budget_bytes: int,
    *,
    cut_texts: bool,
) -> tuple[PoolPlan, PoolShape]:
    n_embd = int(lib.llama_model_n_embd(native.model))
    shape = PoolShape(
        n_vocab=int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(native.model))),
        n_embd=n_embd,
        n_ff=header.own("feed_forward_length") or 4 * n_embd,
        n_head=int(lib.llama_model_n_head(native.model)),
        cut_texts=cut_texts,
        cache=cache_shape(model_id, header, settings) if cut_texts else CacheShape(0.0),
        has_state=header.is_recurrent,
        flash_attention=settings.flash_attention is not False,
    )
    wanted = PoolWanted(
        context_length=settings.context_length,
        n_ctx_train=int(lib.llama_model_n_ctx_train(native.model)),
        batch_tokens=settings.pool_batch_tokens or (BATCH_TOKENS_GPU if uses_gpu(settings) else BATCH_TOKENS_CPU),
        fixed_positions=header.architecture in LEARNED_POSITIONS,
    )
    return plan_pool(wanted, shape, budget_bytes), shape
