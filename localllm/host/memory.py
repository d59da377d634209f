"""How much memory models may take together, and how much one is likely to take before it is loaded."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from pathlib import Path
from typing import Any

from localllm.contract.backend import BackendSpec
from localllm.contract.model import MemoryUse, Mode, ModelSpec

AUTOMATIC_SHARE = 0.8
"""Of the machine's memory: the rest is for the system, for pages of mapped files and for other programs."""

FILE_FACTOR = 1.1
WORKER_BYTES = 128 * 1024 * 1024
"""What a worker takes beside its model where its engine gives no estimate: a Python process, its libraries, buffers."""

_logger = logging.getLogger("localllm.host")


def automatic_limit_bytes() -> int:
    """Return what all models may take when nobody set a limit; 0 (none) where the machine's memory is unknown."""
    return int((machine_memory_bytes() or 0) * AUTOMATIC_SHARE)


def machine_memory_bytes(cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the memory that this machine, or this container, has; None where the system doesn't tell."""
    physical = _windows_memory_bytes() if sys.platform == "win32" else _physical_bytes()
    try:
        allowed = int((cgroups / "memory.max").read_text())
    except (OSError, ValueError):  # no container, or "max"
        return physical
    return allowed if physical is None else min(physical, allowed)


def estimated_bytes(spec: ModelSpec, mode: Mode, backend: BackendSpec) -> int:
    """Return what ``spec`` will take when loaded: by its engine's estimate, else by the size of its file.

    Without an estimate that is 1.1 times the file and 128 MiB for the process; nothing for models that run elsewhere.
    """
    estimate = _engines_estimate(spec, mode, backend)
    if estimate is not None:
        return estimate.total_bytes
    return 0 if backend.kind == "client" else int(_file_bytes(spec) * FILE_FACTOR) + WORKER_BYTES


def describe_bytes(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 // 10 else f"{count / 2**20:.1f} MiB"


def _engines_estimate(spec: ModelSpec, mode: Mode, backend: BackendSpec) -> MemoryUse | None:
    if backend.estimate is None:
        return None
    try:
        return backend.estimate(spec, mode)
    except Exception:
        _logger.exception("engine %s can't estimate the memory of %s; its file's size counts", backend.name, spec.id)
        return None


def _file_bytes(spec: ModelSpec) -> int:
    size = spec.meta.get("size")  # of all parts of a split file
    if isinstance(size, int):
        return size
    try:
        return Path(spec.path).stat().st_size if spec.path else 0
    except OSError:
        return 0  # loading says what is wrong with it


def _physical_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _windows_memory_bytes() -> int | None:
    """``GetPhysicallyInstalledSystemMemory`` tells kibibytes."""
    libraries: Any = getattr(ctypes, "windll", None)
    kibibytes = ctypes.c_ulonglong()
    if libraries is None or not libraries.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes)):
        return None
    return kibibytes.value * 1024
