"""Keeps sequences that decode together adjacent, because the library computes streams in runs of consecutive ids."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from localllm import Slice

LONGEST_GAP = 3
"""Idle sequences in a row up to which computing a token for each costs less than one more pass over the weights.

Measured with the 135 M model on 2 cores: one pass costs about as much as 3 to 5 more rows in another.
"""
FILLER_TOKEN = 0


def gap_fillers(slices: Sequence[Slice], lengths: Sequence[int], stream_cells: int) -> list[Slice]:
    """Return one-token slices for idle sequences that separate decoding ones; they are to be removed after the step.

    ``llama_batch_allocr::split_equal`` puts a sequence into a pass only if its id follows the last one's, so that
    sequences 0, 2, 4 would each take a pass of their own. ``slices`` rise by sequence; ``lengths[i]`` is what sequence
    i holds. A prompt is computed in passes of its own, so gaps matter only between slices of one token. A gap with a
    sequence that has no free cell stays.
    """
    present = {part.seq for part in slices}
    decoding = [part.seq for part in slices if len(part.tokens) == 1]
    fillers: list[Slice] = []
    for left, right in itertools.pairwise(decoding):
        idle = [seq for seq in range(left + 1, right) if seq not in present]
        if len(idle) <= LONGEST_GAP and all(lengths[seq] < stream_cells for seq in idle):
            fillers.extend(Slice(seq, lengths[seq], (FILLER_TOKEN,)) for seq in idle)
    return fillers
