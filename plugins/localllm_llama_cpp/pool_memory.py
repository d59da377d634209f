"""How long a text may be, and how many texts go together, so that pooling them fits into memory: arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass

from .memory import CELL_STEP, SMALLEST_CONTEXT, CacheShape, MemoryPlan, Wanted, kv_bytes

BATCH_TOKENS_CPU = 256
"""Tokens of short texts in one batch.

Each token attends over the whole batch, so that larger ones waste work: 11,200, 10,300, 8,900 and 5,500 tokens/s with
256, 512, 1024 and 2048 (MiniLM Q8_0, texts of 48 words, 2 cores).
"""
BATCH_TOKENS_GPU = 2048
MAX_BATCH_TEXTS = 256  # llama.cpp's LLAMA_MAX_SEQ (src/llama-cparams.h)
_TOKENS_PER_TEXT = 4  # a short word with what stands around it
_STATE_TEXTS = 8  # recurrent models compute text by text, and each costs a state of its own
_FLOAT_BYTES = 4
_STEP = 64


@dataclass(frozen=True, slots=True)
class PoolShape:
    """What the header says of the size of one token's computation, in floats unless named otherwise.

    ``cut_texts``: attention looks back only, so that a text can be computed in pieces; ``cache`` is what they leave.
    """

    n_vocab: int
    n_embd: int
    n_ff: int
    n_head: int
    cut_texts: bool
    cache: CacheShape
    has_state: bool = False  # recurrent layers
    flash_attention: bool = True


@dataclass(frozen=True, slots=True)
class PoolWanted:
    """What the settings ask for. ``context_length`` 0 means the model's own, ``n_ctx_train``."""

    context_length: int
    n_ctx_train: int
    batch_tokens: int
    fixed_positions: bool = False  # no text can be longer than n_ctx_train


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What the context is made with. ``micro_batch`` tokens are computed at once; ``notes`` say what gave way."""

    context_length: int
    batch_tokens: int
    batch_texts: int
    micro_batch: int
    n_cells: int
    cut_texts: bool
    notes: tuple[str, ...] = ()

    def cache_bytes(self, shape: PoolShape) -> float:
        """Return what the cells take that texts leave; none where they are computed at once."""
        return _cache_bytes(self, shape.cache) if self.cut_texts else 0.0


def plan_pool(wanted: PoolWanted, shape: PoolShape, budget_bytes: int) -> PoolPlan:
    """Choose the longest text so that computing it takes at most ``budget_bytes``.

    It never falls below 512 tokens, or what was asked for: what then still does not fit is left for the library.
    """
    full = wanted.context_length or wanted.n_ctx_train
    notes = []
    if wanted.fixed_positions and full > wanted.n_ctx_train:
        notes.append(
            f"context_length is {wanted.n_ctx_train} instead of the configured {full}: the model has learned "
            "no positions beyond."
        )
        full = wanted.n_ctx_train
    fits = _longest(wanted, shape, budget_bytes, full)
    if fits < full:
        origin = "the configured" if wanted.context_length else "the model's own"
        notes.append(
            f"context_length is {fits} instead of {origin} {full}: a text may take {budget_bytes / 2**30:.1f} GiB "
            "of the free memory."
        )
    return _plan(wanted, shape, fits, tuple(notes))


def pool_bytes(plan: PoolPlan, shape: PoolShape) -> float:
    """Return the bytes that the library takes for the longest text, or the fullest batch.

    It keeps a row of logits for every token, whether anybody reads them or not (``llama_context::output_reserve``);
    decoders compute them too. Measured: 45, 154 and 88 MB for 4,096 and 8,192 tokens, and 2,048 without flash attention
    (4 heads, width 64), where this says 49, 165 and 91; 121 for a vocabulary of 60,000, where it says 127.
    """
    rows = plan.micro_batch
    keys = plan.n_cells if plan.cut_texts else rows
    logits = rows * shape.n_vocab * (2 if plan.cut_texts else 1)
    activations = rows * (8 * shape.n_embd + 2 * shape.n_ff)
    scores = 0 if shape.flash_attention else shape.n_head * rows * keys
    mask_bytes = (2 if shape.flash_attention else 4) * rows * keys  # which key each token may see
    computed = _FLOAT_BYTES * (logits + activations + scores) + mask_bytes
    return computed + plan.cache_bytes(shape)


def _longest(wanted: PoolWanted, shape: PoolShape, budget_bytes: int, full: int) -> int:
    """Return the largest context up to ``full`` that fits, in steps of 64 below it; the floor if none does."""
    if pool_bytes(_plan(wanted, shape, full), shape) <= budget_bytes:
        return full
    floor = min(SMALLEST_CONTEXT, full)
    low, high = floor // _STEP, (full - 1) // _STEP
    while low < high:
        middle = (low + high + 1) // 2
        if pool_bytes(_plan(wanted, shape, middle * _STEP), shape) <= budget_bytes:
            low = middle
        else:
            high = middle - 1
    return max(floor, low * _STEP)


def _plan(wanted: PoolWanted, shape: PoolShape, context: int, notes: tuple[str, ...] = ()) -> PoolPlan:
    # A text that is cut needs no larger micro-batch than texts that are packed.
    batch = wanted.batch_tokens if shape.cut_texts else min(wanted.batch_tokens, context)
    most_texts = _STATE_TEXTS if shape.has_state else MAX_BATCH_TEXTS
    texts = max(1, min(most_texts, batch // _TOKENS_PER_TEXT))
    # The library makes its graphs for the same number of tokens in each text, and asserts that this comes out even
    # (llama_context::graph_reserve rounds the tokens up, but not the rows of their results).
    micro_batch = _round_up(batch if shape.cut_texts else context, texts)
    return PoolPlan(
        context_length=context,
        batch_tokens=batch,
        batch_texts=texts,
        micro_batch=micro_batch,
        n_cells=_round_up(max(context, micro_batch), CELL_STEP),
        cut_texts=shape.cut_texts,
        notes=notes,
    )


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _cache_bytes(plan: PoolPlan, cache: CacheShape) -> float:
    cells = MemoryPlan("unified", plan.context_length, plan.batch_texts, 0, plan.n_cells, 0)
    wanted = Wanted(plan.context_length, plan.context_length, plan.batch_texts, 0, "unified", plan.micro_batch)
    return kv_bytes(cells, wanted, cache)
