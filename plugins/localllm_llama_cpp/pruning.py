"""Leaves out candidates that no sampler can keep, so that the rest of sampling costs next to nothing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .chain import ChainParams

Row = NDArray[np.float32]
Ids = NDArray[np.intp]

GROUPS = 128  # elements that compete for one maximum; more make the bound cheaper but looser
MAXIMA_PER_K = 4  # at least so many maxima for each candidate wanted, or the bound lets too much through
SMALLEST_GROUP = 8  # with fewer elements in a group, looking at all of them is as quick


def candidates_of(row: Row, params: ChainParams, among: Ids | None = None) -> Ids | None:
    """Return the ids, ascending, that the chain has to see; None stands for the whole row.

    ``among`` are the ids that may be drawn at all, ascending (a grammar's, say). Only what the chain's first sampler
    throws away is left out: later ones look at sums over all that is left. Top-n-sigma and mirostat measure the whole
    distribution, so they need all of it.
    """
    logits = row if among is None else row[among]
    ids: Ids | None = None
    if params.begins_with_top_k:
        ids = top_k_candidates(logits, params.top_k)
    elif params.begins_with_min_p and len(logits):
        ids = min_p_candidates(logits, params.min_p)
    if params.needs_finite:
        kept = logits if ids is None else logits[ids]
        finite = np.isfinite(kept).nonzero()[0]
        ids = finite if ids is None else ids[finite]
    if among is None:
        return ids
    return among if ids is None else among[ids]


def top_k_candidates(row: Row, k: int) -> Ids | None:
    """Return ids, ascending, that hold every candidate of the ``k`` largest (ties too); None: take the whole row.

    The row is read as a table of G rows, and the maximum of each column taken (that axis is the fast one). The k-th
    largest maximum is a lower bound of the k-th largest logit, because k different logits are at least as large. So
    only columns whose maximum reaches it are looked at again, and the tail that fills no row of the table.
    """
    n_vocab = row.shape[0]
    groups = min(GROUPS, n_vocab // (MAXIMA_PER_K * k))
    if groups < SMALLEST_GROUP:
        return None
    columns = n_vocab // groups
    table = row[: groups * columns].reshape(groups, columns)
    maxima = table.max(axis=0)
    bound = np.partition(maxima, columns - k)[columns - k]
    candidates = (maxima >= bound).nonzero()[0]
    found = (table.take(candidates, axis=1) >= bound).ravel().nonzero()[0]  # one axis: twice as fast as two
    at_row, at_candidate = np.divmod(found, max(1, len(candidates)))  # none where all is "not a number"
    ids: Ids = at_row * columns + candidates[at_candidate]
    tail = (row[groups * columns :] >= bound).nonzero()[0]
    return np.concatenate([ids, tail + groups * columns]) if len(tail) else ids


def min_p_candidates(row: Row, min_p: float) -> Ids:
    """Return ids, ascending, that hold every candidate at least ``min_p`` times as likely as the likeliest.

    Valid where min-p is the first sampler of the chain and sees logits that no temperature has scaled. The bound is a
    little low, so that no difference in rounding takes a candidate away; the chain then cuts exactly.
    """
    largest = float(row.max())
    slack = 1e-5 * (1.0 + abs(largest))
    return np.flatnonzero(row >= np.float32(largest + math.log(min_p) - slack))
