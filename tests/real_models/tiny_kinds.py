"""How tiny models are loaded where their numbers are compared."""

from __future__ import annotations

from typing import Any, Final

EXACT: Final[dict[str, Any]] = {
    "flash_attention": False,
    "cache_type_k": "f32",
    "cache_type_v": "f32",
    "n_batch": 64,
    "n_ubatch": 32,
    "threads": 1,  # more are no faster with models so small, and wait for one another where others compute too
}
"""Exact arithmetic, as far as there is any: other batch shapes then move log-probabilities by some 1e-6 only."""
