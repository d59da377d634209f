"""How much memory the library takes beside weights and KV cells, by the sizes of its graphs: arithmetic only.

Fitted to what the library reports of itself (llama.cpp's "compute buffer size" and "output buffer size" lines).
"""

from __future__ import annotations

from dataclasses import dataclass

from .memory import CELL_STEP, MemoryPlan
from .model_facts import ModelFacts
from .pool_memory import PoolPlan

SCORED_ROWS = 64
"""So many positions of a prompt give their logits at once: fewer would leave matrix kernels idle."""

GRAMMAR_BYTES_PER_TOKEN = 400
"""What llguidance keeps of a vocabulary: 57 MiB with 152,000 tokens."""

_FLOAT_BYTES = 4
_ROW_BYTES = 40  # positions, token ids, cell numbers of one token


@dataclass(frozen=True, slots=True)
class GraphSize:
    """What one graph is made for: ``n_tokens`` at once, of ``n_seqs`` sequences, with ``n_outputs`` rows of logits.

    ``n_cells`` is what each token may look at, ``n_window_cells`` in layers with a window; 0 where there is none.
    """

    n_tokens: int
    n_seqs: int
    n_outputs: int
    n_cells: int
    n_window_cells: int = 0
    flash_attention: bool = True


def output_rows(n_seq_max: int) -> int:
    """Return how many rows of logits one batch may ask for: the library reserves one for each sequence in any case.

    Each takes four bytes per token of the vocabulary, once where it is computed and once where it is read.
    """
    return max(n_seq_max, SCORED_ROWS)


def generation_bytes(
    facts: ModelFacts, plan: MemoryPlan, n_ubatch: int, *, swa_full: bool = False, flash_attention: bool = True
) -> int:
    """Return what graphs and results take for a model that writes text (``llama_context::sched_reserve``)."""
    per_stream = plan.n_ctx // (plan.n_seq_max if plan.layout == "streams" else 1)
    window = 0
    if facts.n_swa and any(layer.windowed for layer in facts.layers):
        sequences = 1 if plan.layout == "streams" else plan.n_seq_max
        window = per_stream if swa_full else min(per_stream, _pad(facts.n_swa * sequences + n_ubatch))
    size = GraphSize(
        n_tokens=min(plan.n_ctx, n_ubatch),
        n_seqs=plan.n_seq_max,
        n_outputs=output_rows(plan.n_seq_max),
        n_cells=0 if facts.recurrent_only else per_stream,
        n_window_cells=window,
        flash_attention=flash_attention,
    )
    return graph_bytes(facts, size) + plan.n_seq_max * facts.n_vocab * _FLOAT_BYTES


def pooling_bytes(facts: ModelFacts, plan: PoolPlan, *, flash_attention: bool = True) -> int:
    """Return what graphs and results take for a model that pools texts, once a whole batch of them was computed."""
    rows = plan.micro_batch
    results = rows * (facts.n_vocab + facts.n_embd) * _FLOAT_BYTES  # kept for every token (output_reserve)
    if not plan.cut_texts:
        return _encoder_bytes(facts, plan, flash_attention=flash_attention) + results
    size = GraphSize(rows, plan.batch_texts, rows, plan.n_cells, flash_attention=flash_attention)
    masks = rows * plan.n_cells * (2 if flash_attention else 4)
    logits = rows * (facts.n_vocab + 2 * facts.n_embd) * _FLOAT_BYTES + masks
    return max(graph_bytes(facts, size), logits) + results


def _encoder_bytes(facts: ModelFacts, plan: PoolPlan, *, flash_attention: bool) -> int:
    rows, width = plan.micro_batch, facts.n_embd
    mask_bytes = rows * rows * (2 if flash_attention else 4)
    scores = 0 if flash_attention else facts.n_head * rows
    numbers = max(facts.n_ff + 5 * width // 2, 11 * width // 2) + scores + plan.batch_texts
    return mask_bytes + rows * numbers * _FLOAT_BYTES


def graph_bytes(facts: ModelFacts, size: GraphSize) -> int:
    """Return the size of the buffer that one graph is computed in: that of its fullest moment.

    That is either a layer, beside which the masks of all layers stand, or the rows of logits at the end.
    """
    rows = -(-size.n_tokens // size.n_seqs) * size.n_seqs
    mask_bytes = rows * (size.n_cells + size.n_window_cells) * (2 if size.flash_attention else 4)
    layer = mask_bytes + rows * max(_feed_forward_bytes(facts), _attention_bytes(facts, size), _state_bytes(facts))
    n_outputs = min(rows, size.n_outputs)
    output = _FLOAT_BYTES * (n_outputs * (facts.n_vocab + facts.n_embd) + rows * facts.n_embd)
    return max(layer, output) + rows * _ROW_BYTES


def _feed_forward_bytes(facts: ModelFacts) -> int:
    """One token in a feed-forward layer: both inputs of the product and the product; and holes too small for them."""
    width, inner = facts.n_embd, facts.n_ff
    roomy = inner > 2 * width or facts.n_expert > 0
    return _FLOAT_BYTES * (3 * inner + (4 if roomy else 2) * width)


def _attention_bytes(facts: ModelFacts, size: GraphSize) -> int:
    queries, keys = facts.n_head * facts.head_size, facts.n_head_kv_values
    if size.flash_attention:
        return _FLOAT_BYTES * (2 * facts.n_embd + 2 * queries + 2 * keys)
    scores = facts.n_head * max(size.n_cells, size.n_window_cells)
    return _FLOAT_BYTES * (2 * facts.n_embd + 3 * queries + 2 * keys + scores)


def _state_bytes(facts: ModelFacts) -> int:
    """One token in a recurrent layer."""
    return _FLOAT_BYTES * (2 * facts.n_embd + 6 * (facts.n_inner or facts.n_embd)) if facts.has_state else 0


def _pad(cells: int) -> int:
    return -(-cells // CELL_STEP) * CELL_STEP
