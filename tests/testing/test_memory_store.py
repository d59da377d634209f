"""The store in memory does what every store does; it is what the others are held against."""

from __future__ import annotations

import asyncio

import pytest

from localllm.testing import MemoryStore, StoreLimits
from localllm.testing.store_contract import CHECKS
from localllm.testing.store_kit import Check

LIMITS = StoreLimits(max_sessions_per_owner=12, max_bytes_per_owner=30_000)


@pytest.mark.parametrize("limits", [StoreLimits(), LIMITS], ids=["unlimited", "limited"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_store_contract(check: Check, limits: StoreLimits) -> None:
    asyncio.run(check(MemoryStore(limits), limits))
