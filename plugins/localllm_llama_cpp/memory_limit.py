"""Bounds the memory that a piece of work may take, so that foreign code ends by an error and not by the OOM killer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATM = Path("/proc/self/statm")
_DATA_FIELD = 5  # proc_pid_statm(5): pages of data and stack, which is what RLIMIT_DATA counts


@contextmanager
def at_most(n_bytes: int) -> Iterator[None]:
    """Let the process take ``n_bytes`` more inside the block; an allocation beyond that raises ``MemoryError``.

    The limit holds for all threads: it is meant to be far above what any of them needs meanwhile. One thread at a time.
    Linux only; elsewhere nothing is bounded.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = int(_STATM.read_text().split()[_DATA_FIELD]) * resource.getpagesize() + n_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
