"""What holds for every test of this repository: it leaves no process and no environment variable behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.processes import children, ends_within

_GRACE_SECONDS = 5.0  # for a process that is just ending

# Tests that a shell runs in the background have Ctrl-C ignored, and so would have the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FULL = os.environ.get("LOCALLLM_TEST_FULL") == "1"

# In CI, which judges a change, the same cases are drawn each time; everywhere else new ones are looked for.
settings.register_profile(
    "normal",
    max_examples=150,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("full", settings.get_profile("normal"), max_examples=2000)
settings.load_profile("full" if FULL else "normal")


@pytest.fixture(autouse=True)
def _unchanged_environment() -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    yield
    after = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    assert not changed, f"the test changed environment variables: {changed}"


@pytest.fixture(scope="module", autouse=True)
def _child_processes() -> Iterator[dict[int, str]]:
    """Children that tests of this module started, with the test that did. At the module's end all must be gone."""
    started: dict[int, str] = {}
    before = children()
    yield started
    left = {pid: started.get(pid, "a fixture") for pid in children() - before if not ends_within(pid, _GRACE_SECONDS)}
    assert not left, f"processes were left behind: {left}"


@pytest.fixture(autouse=True)
def _note_children(request: pytest.FixtureRequest, _child_processes: dict[int, str]) -> Iterator[None]:
    before = children()
    yield
    for pid in children() - before:
        _child_processes[pid] = request.node.nodeid
