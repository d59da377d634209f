"""What this machine offers: cores, free memory, and which build of the library stands on disk, without importing it."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import re
from pathlib import Path

LIBRARY_VERSION = "0.3.36"  # of llama-cpp-python: the bindings follow llama.cpp's C API, which makes no promises
REBUILD_COMMAND = (
    "CXXFLAGS=-fno-dse pip install --force-reinstall --no-deps --no-cache-dir "
    f"--no-binary llama-cpp-python llama-cpp-python=={LIBRARY_VERSION}"
)
"""Builds the library so that compilers which mistreat AMX code (GCC 12 among them) do no harm."""

_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60  # version 1 of cgroups writes "no limit" as a number near 2**63


_COMMIT = re.compile(rb"\0\d+\.\d+\.\d+\0([0-9a-f]{7,40})(?:-dirty)?\0")  # GGML_VERSION, GGML_COMMIT (ggml.c)


def build_id() -> str:
    """Return a short name of the installed native build; it changes whenever the library's files do.

    It reads as ``llama-cpp-python 0.3.36, llama.cpp 0c1e570, files 5f2d...``.
    Raises ``ModuleNotFoundError`` where llama-cpp-python is not installed.
    """
    from importlib.metadata import version  # workers need none of it, and their first token waits for their imports

    spec = importlib.util.find_spec("llama_cpp")  # finds the package's folder; runs none of its code
    if spec is None or not spec.submodule_search_locations:
        message = "llama-cpp-python is not installed; install it with: pip install llama-cpp-python"
        raise ModuleNotFoundError(message)
    digest = hashlib.sha256()
    commit = "of unknown commit"
    for folder in spec.submodule_search_locations:
        for file in sorted((Path(folder) / "lib").glob("*")):
            status = file.stat()
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
            if "ggml-base" in file.name and (found := _COMMIT.search(file.read_bytes())):
                commit = found.group(1).decode()
    return f"llama-cpp-python {version('llama-cpp-python')}, llama.cpp {commit}, files {digest.hexdigest()[:12]}"


def physical_cores() -> int:
    """Return how many cores this process may use, counting hyper-threads of one core once, at least 1.

    A container's CPU quota counts too: more threads than it grants would be put to sleep in the middle of a step.
    """
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = {_thread_siblings(cpu) for cpu in allowed}
    quota = _cpu_quota()
    return max(1, min(len(siblings), math.ceil(quota) if quota else len(siblings)))


def available_memory_bytes() -> int:
    """Return the memory, in bytes, that can be taken without swapping, within the limits of container and service."""
    available = _meminfo_available()
    if available is None:
        available = _unused_pages()
    second, first = _memory_groups()
    free = [*map(_cgroup_v2_free, second), *map(_cgroup_v1_free, first)]
    return min([available, *(one for one in free if one is not None)])


def total_memory_bytes() -> int:
    """Return the memory, in bytes, that this machine, container or service has; the available where none tells."""
    names = getattr(os, "sysconf_names", {})
    known = "SC_PHYS_PAGES" in names
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else available_memory_bytes()
    second, first = _memory_groups()
    limits = [
        *(_read_int(folder / "memory.max") for folder in second),
        *(_read_int(folder / "memory.limit_in_bytes") for folder in first),
    ]
    return min([physical, *(limit for limit in limits if limit is not None and limit < _UNLIMITED)])


def _memory_groups() -> tuple[list[Path], list[Path]]:
    """Return the folders of this process's groups that may limit memory, by either version, up to the root.

    In a container the root is its own. A path that is told from outside of it leads nowhere, and limits nothing.
    """
    second, first = [_CGROUP], [_CGROUP / "memory"]
    for line in (_read(_OWN_GROUPS) or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            folders = second if number == "0" else first
            for name in filter(None, path.split("/")):
                folders.append(folders[-1] / name)
    return second, first


def _thread_siblings(cpu: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return _read(path) or f"cpu{cpu}"  # unknown: a core of its own


def _cpu_quota() -> float | None:
    text = _read(_CGROUP / "cpu.max")
    if text is not None:
        quota, _, period = text.partition(" ")
        return None if quota == "max" else int(quota) / int(period)
    quota_us, period_us = _read_int(_CGROUP / "cpu/cpu.cfs_quota_us"), _read_int(_CGROUP / "cpu/cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _meminfo_available() -> int | None:
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _unused_pages() -> int:
    """Return a guess for systems without /proc: unused pages where the system tells, else half of the memory."""
    names = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" in names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if "SC_PHYS_PAGES" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 * 1024**3  # Windows has neither; the user can set context_length


def _cgroup_v2_free(folder: Path) -> int | None:
    limit, used = _read_int(folder / "memory.max"), _read_int(folder / "memory.current")
    return None if limit is None or used is None else max(0, limit - used + _file_cache(folder / "memory.stat"))


def _cgroup_v1_free(folder: Path) -> int | None:
    limit, used = _read_int(folder / "memory.limit_in_bytes"), _read_int(folder / "memory.usage_in_bytes")
    if limit is None or used is None or limit >= _UNLIMITED:
        return None
    return max(0, limit - used + _file_cache(folder / "memory.stat"))


def _file_cache(path: Path) -> int:
    """Return the bytes of cached files that the system gives back on demand."""
    for line in (_read(path) or "").splitlines():
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):  # absent on this system
        return None


def _read_int(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None
