from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from localllm_llama_cpp.pruning import min_p_candidates, top_k_candidates

seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([1, 7, 320, 2048, 5003, 32_000])
spreads = st.sampled_from([0.0, 0.01, 1.0, 5.0, 1e4])


def random_row(seed: int, size: int, spread: float, *, rounded: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    row = (rng.standard_normal(size) * spread).astype(np.float32)
    if rounded:
        row = np.round(row, 1)  # many equal logits
    row[rng.random(size) < 0.1] = -np.inf  # banned tokens
    return row


@given(seeds, sizes, spreads, st.booleans(), st.integers(1, 200))
def test_top_k_keeps_every_token_that_any_tie_break_could_keep(seed, size, spread, rounded, k):
    row = random_row(seed, size, spread, rounded=rounded)
    ids = top_k_candidates(row, k)
    if ids is None:
        return
    assert len(ids) >= k
    assert (np.diff(ids) > 0).all()
    kth = np.partition(row, size - k)[size - k]
    assert set(np.flatnonzero(row >= kth)) <= set(ids.tolist())


def test_top_k_leaves_little_of_a_large_vocabulary():
    row = random_row(1, 151_936, 3.0)
    ids = top_k_candidates(row, 40)
    assert ids is not None
    assert len(ids) < 200


def test_the_tail_that_fills_no_row_of_the_table_is_kept():
    row = np.zeros(32_000 + 77, dtype=np.float32)
    row[-1] = 5.0
    ids = top_k_candidates(row, 1)
    assert ids is not None
    assert len(row) - 1 in ids


@given(seeds, sizes, spreads, st.floats(1e-4, 1.0))
def test_min_p_keeps_every_token_that_is_likely_enough(seed, size, spread, min_p):
    row = random_row(seed, size, spread)
    row[0] = 1.0
    kept = set(min_p_candidates(row, min_p).tolist())
    exact = row.astype(np.float64)
    assert set(np.flatnonzero(exact >= exact.max() + np.log(min_p)).tolist()) <= kept


def test_min_p_leaves_out_what_is_clearly_too_unlikely():
    row = np.array([0.0, -1.0, -3.1, -9.0], dtype=np.float32)
    assert min_p_candidates(row, 0.05).tolist() == [0, 1]
