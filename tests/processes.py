"""Finding processes, and waiting for them, one's own children or not, without polling."""

from __future__ import annotations

import os
import select
from pathlib import Path


def ends_within(pid: int, seconds: float) -> bool:
    """Wait for a process to end; its descriptor becomes readable when it has. One that is gone has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def children() -> set[int]:
    """Return the processes that this one has started and not reaped; none where the system doesn't tell (no /proc)."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(map(int, path.read_text().split()))
        except (FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            continue
    return found
