"""Log-probabilities of a row of raw logits, before any penalty, bias or temperature."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .pruning import top_k_candidates


class RowLogprobs:
    """Natural log-probabilities of one row; what all its choices share is computed once."""

    def __init__(self, row: NDArray[np.float32]) -> None:
        self._row = row
        largest = row.max()
        # The largest exponent is 0, so nothing overflows; single precision per term, double for the sum.
        self._log_total = float(largest) + math.log(float(np.exp(row - largest).sum(dtype=np.float64)))
        self._top: tuple[tuple[int, float], ...] = ()

    def of(self, token: int) -> float:
        """Return the log-probability of ``token``."""
        return float(self._row[token]) - self._log_total

    def top(self, count: int) -> tuple[tuple[int, float], ...]:
        """Return (token, log-probability) of the ``count`` most likely tokens, most likely first, then by id."""
        count = min(count, len(self._row))
        if count > len(self._top):
            ids = top_k_candidates(self._row, count)
            ids = np.arange(len(self._row)) if ids is None else ids
            order = np.argsort(-self._row[ids], kind="stable")[:count]
            self._top = tuple((int(token), self.of(int(token))) for token in ids[order])
        return self._top[:count]
