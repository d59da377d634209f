"""Runs a scenario against a registry and sees that it closes clean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm.host.states import ModelState
from tests.host.registry_kit import Scenario, World


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    def play(scenario: Scenario, **settings: Any) -> None:
        async def run() -> None:
            world = World(tmp_path, **settings)
            await scenario(world)
            world.remote.gate.set()
            await world.registry.close()
            assert all(status.state is ModelState.UNLOADED or status.error for status in world.registry.status())

        asyncio.run(run())

    return play
