"""How many positions of prompts are scored in one step: each has a row of logits, and those are dear."""

from __future__ import annotations

from localllm.engine.pacing import share_budget
from localllm.engine.sequence import Choice

MAX_SCORED_ROWS = 64
"""Positions of prompts that are scored in one step, at most: each has a row of logits, as wide as the vocabulary, and
the engine keeps memory for as many rows as ever were asked for at once."""


def limit_rows(wanted: list[tuple[Choice, bool, int]], n_outputs_max: int) -> None:
    """Cut what is scored to the rows that one step may have; all others that run may need one for a draw.

    ``wanted`` holds (choice, whether it goes first, its tokens in the next plan), of which the tokens are changed.
    """
    scoring = [index for index, (choice, _, _) in enumerate(wanted) if choice.scores]
    if not scoring:
        return
    rows = min(MAX_SCORED_ROWS, n_outputs_max - len(wanted) + len(scoring))
    shares = share_budget(rows, [wanted[index][2] for index in scoring])
    for index, n_rows in zip(scoring, shares, strict=True):
        choice, is_urgent, n_wanted = wanted[index]
        # What was scored before it was preempted has no rows again.
        n_again = choice.request.n_scored - choice.sequence.evaluated
        wanted[index] = (choice, is_urgent, min(n_wanted, n_again if n_again > 0 else n_rows))
