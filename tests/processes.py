"""Waiting for processes, one's own children or not, without polling."""

from __future__ import annotations

import os
import select


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
