"""The SQLite store does what every store does, and keeps it in a file that is its owner's alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from localllm.testing import StoreLimits
from localllm.testing.store_contract import CHECKS
from localllm.testing.store_kit import Check
from localllm_sessions.sqlite_limits import OwnerLimits
from tests.plugins.sessions.store_kit import opened

LIMITS = StoreLimits(max_sessions_per_owner=12, max_bytes_per_owner=30_000)


@pytest.mark.parametrize("limits", [StoreLimits(), LIMITS], ids=["unlimited", "limited"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_store_contract(check: Check, limits: StoreLimits, tmp_path: Path) -> None:
    async def run() -> None:
        own = OwnerLimits(limits.max_sessions_per_owner or 0, limits.max_bytes_per_owner or 0)
        async with opened(tmp_path / "sessions.db", limits=own) as store:
            await check(store, limits)

    asyncio.run(run())
