"""Joins runs of decoding sequences, because the library computes streams in runs of consecutive ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from localllm import Slice

FILLER_TOKEN = 0


@dataclass(frozen=True, slots=True)
class GapRule:
    """When computing a token for each idle sequence of a gap costs less than one more pass over the weights.

    Runs shorter than ``shortest_run`` are left alone: a CPU computes a single row by a faster kernel than several.
    """

    shortest_run: int
    longest_gap: int


CPU_RULE = GapRule(shortest_run=2, longest_gap=3)
"""135 M model, Q8_0: a pass of several rows costs as much as 7 more rows in another, with AMX and without."""
GPU_RULE = GapRule(shortest_run=1, longest_gap=8)
"""A pass is bound by reading the weights; rows cost next to nothing."""


def gap_fillers(slices: Sequence[Slice], lengths: Sequence[int], stream_cells: int, rule: GapRule) -> list[Slice]:
    """Return one-token slices for idle sequences that separate decoding ones; they are to be removed after the step.

    ``llama_batch_allocr::split_equal`` puts a sequence into a pass only if its id follows the last one's, so that
    sequences 0, 1, 3, 4 would take two passes. ``slices`` rise by sequence; ``lengths[i]`` is what sequence i holds. A
    prompt is computed in passes of its own, so it only bridges a gap. Gaps with a full sequence stay.
    """
    present = {part.seq for part in slices}
    fillers: list[Slice] = []
    run_length = 0
    run_end = -1
    for run in _runs([part.seq for part in slices if len(part.tokens) == 1]):
        idle = [seq for seq in range(run_end + 1, run.start) if seq not in present]
        worth_it = min(run_length, len(run)) >= rule.shortest_run and len(idle) <= rule.longest_gap
        if worth_it and all(lengths[seq] < stream_cells for seq in idle):
            fillers.extend(Slice(seq, lengths[seq], (FILLER_TOKEN,)) for seq in idle)
            run_length += len(idle) + len(run)
        else:
            run_length = len(run)
        run_end = run.stop - 1
    return fillers


def _runs(sequences: Sequence[int]) -> Iterator[range]:
    """Yield the runs of consecutive ids in ``sequences``, which rise."""
    start = 0
    for index, seq in enumerate(sequences):
        if index + 1 == len(sequences) or sequences[index + 1] != seq + 1:
            yield range(sequences[start], seq + 1)
            start = index + 1
