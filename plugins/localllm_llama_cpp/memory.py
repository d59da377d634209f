"""How many KV cells to make, in which layout, so that they fit into memory: arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

CELL_STEP = 256  # llama.cpp rounds every context up to a multiple of this (llama-context.cpp, GGML_PAD)
SMALLEST_CONTEXT = 512  # tokens; below this nothing useful can be asked
STREAM_CELLS_MAX = 8192  # cells of one stream up to which whole copies stay cheap beside prefilling
OWN_POOL_CELLS = 65_536  # cells beyond one context that a pool gets when nobody asked for a context length
STREAMS_PARALLEL_MIN = 8  # running answers from which attending over everybody's cells costs more than streams' copies

BYTES_PER_VALUE: dict[str, float] = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Size of one cached number; quantised types share a scale among 32 (ggml-common.h)."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What the header says about the size of a model's cache.

    ``cell_bytes`` is one position in all layers that see everything, ``window_cell_bytes`` in those that see only the
    last ``n_swa`` positions, ``state_bytes`` the whole state of one sequence in recurrent layers.
    """

    cell_bytes: float
    window_cell_bytes: float = 0.0
    n_swa: int = 0
    state_bytes: float = 0.0
    recurrent_only: bool = False  # no KV cells at all: the context costs nothing


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings ask for. ``context_length`` 0 means the model's own, ``n_ctx_train``."""

    context_length: int
    n_ctx_train: int
    parallel: int
    cached_sequences: int
    layout: str  # "auto", "unified" or "streams"
    n_ubatch: int
    swa_full: bool = False


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What the context is made with. ``n_ctx`` counts all cells; ``notes`` say what had to give way."""

    layout: Literal["unified", "streams"]
    context_length: int
    parallel: int
    cached_sequences: int
    n_ctx: int
    kv_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def n_seq_max(self) -> int:
        """Sequences that the memory keeps apart."""
        return self.parallel + self.cached_sequences


def plan_memory(wanted: Wanted, shape: CacheShape, budget_bytes: int) -> MemoryPlan:
    """Choose layout and size so that the KV cache takes at most ``budget_bytes``.

    When memory is short, cached sequences go first, then (in the unified layout) the cells beyond one whole context,
    then the context shrinks, in steps of 256 tokens and never below 512 or the model's own. What then still does not
    fit is left for the library to refuse.
    """
    context = _pad(wanted.context_length or wanted.n_ctx_train)
    full = MemoryPlan(
        layout=choose_layout(wanted, shape, context, budget_bytes),
        context_length=context,
        parallel=wanted.parallel,
        cached_sequences=wanted.cached_sequences,
        n_ctx=0,
        kv_bytes=0,
    )
    if full.layout == "streams":
        plan = _fit_streams(full, wanted, shape, budget_bytes)
    else:
        plan = _fit_unified(full, wanted, shape, budget_bytes)
    return replace(
        plan,
        kv_bytes=round(kv_bytes(plan, wanted, shape)),
        notes=_notes(plan, full, wanted, shape, budget_bytes),
        context_length=min(plan.context_length, wanted.context_length or wanted.n_ctx_train),
    )


def choose_layout(wanted: Wanted, shape: CacheShape, context: int, budget_bytes: int) -> Literal["unified", "streams"]:
    """Answer ``kv_layout = "auto"``.

    Streams decode faster when many answers run at once, because in one pool every query walks over everybody's cells;
    but each sequence then needs a whole context of its own and a shared prefix costs a copy of a whole stream. So
    streams are taken where at least ``STREAMS_PARALLEL_MIN`` answers may run, whole contexts for all sequences fit,
    and one context is at most ``STREAM_CELLS_MAX`` cells. ``benchmarks/`` measures the rule.
    """
    if wanted.layout == "streams":
        return "streams"
    if wanted.layout == "unified":
        return "unified"
    if shape.recurrent_only:
        return "unified"  # a running state takes no cells, and a copy of it is a reference
    if wanted.swa_full and shape.n_swa > 0:
        return "streams"  # only there does a full-size window cache keep every position
    whole = MemoryPlan("streams", context, wanted.parallel, wanted.cached_sequences, 0, 0)
    whole = replace(whole, n_ctx=context * whole.n_seq_max)
    fits = kv_bytes(whole, wanted, shape) <= budget_bytes
    many = wanted.parallel >= STREAMS_PARALLEL_MIN
    return "streams" if fits and many and context <= STREAM_CELLS_MAX else "unified"


def kv_bytes(plan: MemoryPlan, wanted: Wanted, shape: CacheShape) -> float:
    """Return the bytes that the library will take for ``plan`` (``llama_kv_cache_iswa`` for the window's part)."""
    streams = plan.n_seq_max if plan.layout == "streams" else 1
    per_stream = plan.n_ctx // streams
    window = per_stream
    if not wanted.swa_full:
        sequences = 1 if plan.layout == "streams" else plan.n_seq_max
        window = min(per_stream, _pad(shape.n_swa * sequences + wanted.n_ubatch))
    cells = 0.0 if shape.recurrent_only else plan.n_ctx * shape.cell_bytes + window * streams * shape.window_cell_bytes
    return cells + plan.n_seq_max * shape.state_bytes


def copy_cost_tokens(n_cells_per_stream: int) -> int:
    """Return how many tokens of prefill cost as much as copying one stream.

    Measured on a 135 M model, 2 cores: 8, 30 and 60 ms for 2k, 8k and 16k cells, where 1,000 tokens of prompt take
    0.95 s, that is about 4 tokens for every 1,024 cells. Both grow alike with the model's width and depth. Memory that
    is touched for the first time costs more, hence the factor of 2.
    """
    return max(8, 2 * 4 * n_cells_per_stream // 1024)


def _fit_streams(plan: MemoryPlan, wanted: Wanted, shape: CacheShape, budget_bytes: int) -> MemoryPlan:
    def sized(context: int, cached: int) -> MemoryPlan:
        return replace(plan, context_length=context, cached_sequences=cached, n_ctx=context * (plan.parallel + cached))

    for cached in range(plan.cached_sequences, -1, -1):
        candidate = sized(plan.context_length, cached)
        if kv_bytes(candidate, wanted, shape) <= budget_bytes:
            return candidate
    floor = min(SMALLEST_CONTEXT, plan.context_length)
    for context in range(plan.context_length - CELL_STEP, floor, -CELL_STEP):
        candidate = sized(context, 0)
        if kv_bytes(candidate, wanted, shape) <= budget_bytes:
            return candidate
    return sized(floor, 0)


def _fit_unified(plan: MemoryPlan, wanted: Wanted, shape: CacheShape, budget_bytes: int) -> MemoryPlan:
    """One pool: as many cells as ``parallel`` whole contexts take, or what fits; cached sequences own no cells."""
    floor = min(SMALLEST_CONTEXT, plan.context_length)
    most = plan.context_length * plan.parallel
    if wanted.context_length == 0:
        most = max(plan.context_length, min(most, OWN_POOL_CELLS))
    cached = plan.cached_sequences
    if shape.window_cell_bytes > 0 or shape.state_bytes > 0:  # else more sequences cost nothing in a pool
        while (
            cached > 0
            and kv_bytes(replace(plan, cached_sequences=cached, n_ctx=plan.context_length), wanted, shape)
            > budget_bytes
        ):
            cached -= 1
    smaller = replace(plan, cached_sequences=cached)
    n_ctx = (
        plan.context_length if shape.recurrent_only else _most_cells(smaller, wanted, shape, budget_bytes, floor, most)
    )
    return replace(smaller, context_length=min(plan.context_length, n_ctx), n_ctx=n_ctx)


def _most_cells(plan: MemoryPlan, wanted: Wanted, shape: CacheShape, budget_bytes: int, floor: int, most: int) -> int:
    """Return the largest multiple of 256 cells from ``floor`` to ``most`` that fits; ``floor`` if none does."""
    low, high = floor // CELL_STEP, most // CELL_STEP
    while low < high:
        middle = (low + high + 1) // 2
        if kv_bytes(replace(plan, n_ctx=middle * CELL_STEP), wanted, shape) <= budget_bytes:
            low = middle
        else:
            high = middle - 1
    return low * CELL_STEP


def _notes(plan: MemoryPlan, full: MemoryPlan, wanted: Wanted, shape: CacheShape, budget_bytes: int) -> tuple[str, ...]:
    budget = f"{budget_bytes / 2**30:.1f} GiB"
    notes = []
    if plan.cached_sequences < full.cached_sequences:
        notes.append(
            f"cached_sequences is {plan.cached_sequences} instead of {full.cached_sequences}: "
            f"the KV cache may take {budget} of the free memory."
        )
    if plan.context_length < full.context_length:
        origin = "the model's own" if wanted.context_length == 0 else "the configured"
        notes.append(
            f"context_length is {plan.context_length} instead of {origin} {full.context_length}: "
            f"the KV cache may take {budget} of the free memory."
        )
    elif (
        wanted.context_length > 0
        and plan.layout == "unified"
        and not shape.recurrent_only
        and plan.n_ctx < full.context_length * full.parallel
    ):
        notes.append(
            f"{plan.parallel} answers share {plan.n_ctx} KV cells, less than {plan.parallel} whole contexts of "
            f"{plan.context_length}: the KV cache may take {budget} of the free memory."
        )
    return tuple(notes)


def _pad(cells: int) -> int:
    return -(-cells // CELL_STEP) * CELL_STEP
