"""``best_of``: of the answers that were written to a prompt, those that the model finds most likely."""

from __future__ import annotations

import math
from collections.abc import Sequence

from localllm.openai.answers import Answer
from localllm.openai.logprobs import finite


def best_answers(answers: Sequence[Answer], *, n: int, drawn: int) -> list[Answer]:
    """Return, of each ``drawn`` answers in a row, the ``n`` with the highest log-probability per token, best first.

    Of equals the earlier one is taken; an answer without tokens is the last choice.
    """
    if drawn == n:
        return list(answers)
    groups = [answers[start : start + drawn] for start in range(0, len(answers), drawn)]
    return [best for group in groups for best in sorted(group, key=mean_logprob, reverse=True)[:n]]


def mean_logprob(answer: Answer) -> float:
    """Return the log-probability per token; minus infinity for no tokens."""
    if not answer.logprobs:
        return -math.inf
    return math.fsum(finite(token.logprob) for token in answer.logprobs) / len(answer.logprobs)
