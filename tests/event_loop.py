"""Waiting for what an event loop does by itself."""

from __future__ import annotations

import asyncio


async def settle() -> None:
    """Let everything run that can run without the outside."""
    for _ in range(20):
        await asyncio.sleep(0)
