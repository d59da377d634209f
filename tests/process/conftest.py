"""Both event loops, and no child process left behind by any single test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from tests.process.harness import exists
from tests.processes import children

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run() -> Iterator[Run]:
    """Run a coroutine on the loop that the server uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


@pytest.fixture(params=["asyncio", "uvloop"])
def run_both(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a coroutine on either event loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    before = children()
    yield
    left = {pid for pid in children() - before if exists(pid)}
    assert not left, f"the test left the processes {sorted(left)} behind"
