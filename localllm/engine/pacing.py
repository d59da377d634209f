"""How many prompt tokens a step may carry, so that the answers being written see no long gap."""

from __future__ import annotations

from collections.abc import Sequence

MIN_PREFILL_TOKENS = 32
"""A prompt always gets so many tokens of a step; fewer would waste most of a batch."""

_SMOOTHING = 0.5  # weight of the newest measurement


class PrefillPacer:
    """Learns how fast prompts are evaluated, and answers with a token budget.

    In a step that carries decodes as well, all its time is put on the prompt tokens. With a fixed part ``b`` and a
    cost ``c`` per token that measures ``n / (b + n c)`` tokens per second, and budgets of target times that speed
    settle where ``b + n c`` is the target, whatever ``b`` and ``c`` are (for ``b`` above the target: at the minimum).
    """

    def __init__(self, n_batch: int, step_seconds: float) -> None:
        self._n_batch = n_batch
        self._step_seconds = step_seconds
        self._tokens_per_second: float | None = None

    def budget(self, *, decoding: bool) -> int:
        """Return how many prompt tokens the next step may carry: all that fits while no answer is being written."""
        if not decoding:
            return self._n_batch
        if self._tokens_per_second is None:
            return min(self._n_batch, MIN_PREFILL_TOKENS)
        return min(self._n_batch, max(MIN_PREFILL_TOKENS, int(self._step_seconds * self._tokens_per_second)))

    def observe(self, prefill_tokens: int, seconds: float) -> None:
        """Take in one step. Those with few prompt tokens say nothing about speed and are left out."""
        if prefill_tokens < MIN_PREFILL_TOKENS // 2 or seconds <= 0:
            return
        speed = prefill_tokens / seconds
        if self._tokens_per_second is not None:
            speed = _SMOOTHING * speed + (1 - _SMOOTHING) * self._tokens_per_second
        self._tokens_per_second = speed


def share_budget(budget: int, pending: Sequence[int]) -> list[int]:
    """Divide ``budget`` tokens among prompts that have ``pending`` tokens left each, oldest first; return the parts.

    In order of age, but half of the budget is for prompts that have less left than the oldest one, so that a short
    question need not wait until a long document is read, and the document takes twice as long at most.
    """
    parts = [0] * len(pending)
    if not pending:
        return parts
    parts[0] = min(pending[0], (budget + 1) // 2)
    shorter = sorted((index for index, n in enumerate(pending) if n < pending[0]), key=pending.__getitem__)
    left = budget - parts[0]
    for index in (*shorter, *range(len(pending))):
        more = min(left, pending[index] - parts[index])
        parts[index] += more
        left -= more
    return parts
