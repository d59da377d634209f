"""``localllm doctor``: looks at everything that a server needs, and says what to mend and how."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from localllm.cli.failure import RUNTIME_ERROR
from localllm.cli.output import format_bytes
from localllm.cli.startup import Startup, prepare
from localllm.config.errors import ConfigError
from localllm.contract.backend import BackendSpec
from localllm.host.safe_mode import SafeModeMemory
from localllm.plugin_discovery import PluginError

PACKAGES = ("localllm", "llama_cpp_python", "starlette", "hypercorn", "uvloop", "orjson", "pydantic", "jinja2", "numpy")
SAFE_MODE_FILE = "safe_mode.json"
_CHILD_SECONDS = 60
_LITTLE_MEMORY_BYTES = 2_000_000_000

_ASK_LIBRARY = """
import json, os
import llama_cpp
print(json.dumps({
    "system": llama_cpp.llama_print_system_info().decode(),
    "gpu": bool(llama_cpp.llama_supports_gpu_offload()),
    "library": os.path.join(os.path.dirname(llama_cpp.__file__), "lib"),
}))
"""


class Verdict(StrEnum):
    """How a finding is marked."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``advice`` is what to do about it."""

    verdict: Verdict
    subject: str
    text: str
    advice: str = ""


def report_doctor(path: Path | None, overrides: Sequence[str]) -> int:
    """Print all findings. Return 0, or ``RUNTIME_ERROR`` when something keeps the server from working."""
    worst = 0
    for finding in examine(path, overrides):
        typer.echo(f"[{finding.verdict:4}] {finding.subject}: {finding.text}")
        if finding.advice:
            typer.echo(f"       -> {finding.advice}")
        if finding.verdict is Verdict.BAD:
            worst = RUNTIME_ERROR
    return worst


def examine(path: Path | None, overrides: Sequence[str]) -> Iterator[Finding]:
    """Yield the findings one by one; llama.cpp is asked in a child process, for a bad build kills who loads it."""
    yield _look_at_python()
    yield from _look_at_packages()
    yield _look_at_machine()
    library = _ask_library()
    yield library if isinstance(library, Finding) else _describe_library(library)
    if isinstance(library, dict):
        yield _look_for_miscompiled_amx(Path(library["library"]))
    try:
        startup = prepare(path, overrides)
    except (ConfigError, PluginError) as error:
        yield Finding(Verdict.BAD, "configuration", str(error), "mend this; `localllm check` shows it again")
        return
    source = startup.config.source
    yield Finding(Verdict.GOOD, "configuration", str(source) if source else "defaults, no file")
    yield _look_at_state_directory(startup.config.state_directory)
    yield from _look_at_safe_mode(startup)
    yield from _look_at_models(startup)


def _look_at_python() -> Finding:
    where = f"{platform.python_version()} at {sys.executable}, {platform.platform()}"
    return Finding(Verdict.GOOD, "python", where)


def _look_at_packages() -> Iterator[Finding]:
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name != "uvloop" or sys.platform != "win32":
                yield Finding(Verdict.BAD, "packages", f"{name} is missing", "install localllm again with pip")
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding(Verdict.GOOD, "packages", listed)


def _look_at_machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total, available = _memory()
    text = f"{cores} cores"
    if total is None or available is None:
        return Finding(Verdict.GOOD, "machine", text)
    text += f", {format_bytes(total)} memory, {format_bytes(available)} of it available"
    if available < _LITTLE_MEMORY_BYTES:
        return Finding(Verdict.NOTE, "machine", text, "only small models fit; close other programs for larger ones")
    return Finding(Verdict.GOOD, "machine", text)


def _memory() -> tuple[int | None, int | None]:
    """Return total and available memory in bytes where the system tells (Linux)."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None, None
    values = {name: int(value) * 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return values.get("MemTotal"), values.get("MemAvailable")


def _ask_library() -> dict[str, Any] | Finding:
    advice = "reinstall it: CXXFLAGS=-fno-dse pip install --force-reinstall --no-cache-dir llama-cpp-python"
    try:
        child = subprocess.run(  # noqa: S603 - our own interpreter, a fixed program
            [sys.executable, "-P", "-c", _ASK_LIBRARY],
            capture_output=True,
            text=True,
            timeout=_CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(Verdict.BAD, "llama.cpp", f"loading it took more than {_CHILD_SECONDS} s", advice)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        cause = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        return Finding(Verdict.BAD, "llama.cpp", f"it can't be loaded ({cause}): {last}", advice)
    answer: dict[str, Any] = json.loads(child.stdout.strip().splitlines()[-1])
    return answer


def _describe_library(library: dict[str, Any]) -> Finding:
    features = sorted(set(re.findall(r"(\w+) = 1", library["system"])))
    device = "GPU offload" if library["gpu"] else "CPU only"
    return Finding(Verdict.GOOD, "llama.cpp", f"loads; {device}; {' '.join(features)}")


def _look_for_miscompiled_amx(library: Path) -> Finding:
    """GCC before 13 drops stores into AMX's tile configuration unless ``-fno-dse`` is given (docs/architecture.md)."""
    has_amx = " amx_tile" in _cpu_flags()
    compilers = _compilers(library)
    text = f"built by {', '.join(compilers) or 'an unknown compiler'}, this CPU has {'AMX' if has_amx else 'no AMX'}"
    suspects = [version for version in compilers if (found := re.match(r"GCC (\d+)", version)) and int(found[1]) < 13]
    if has_amx and suspects:
        return Finding(
            Verdict.NOTE,
            "build",
            f"{text}: with such compilers the build must have been made with CXXFLAGS=-fno-dse",
            "nothing to do if `make serve` or uv built it; otherwise models load in safe mode, at half the speed",
        )
    return Finding(Verdict.GOOD, "build", text)


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _compilers(library: Path) -> list[str]:
    """Return the compilers that the library's files name in their comment sections."""
    found: set[str] = set()
    for file in sorted(library.glob("libggml-cpu*")):
        content = file.read_bytes()
        found |= {f"GCC {version.decode()}" for version in re.findall(rb"GCC: \([^)]*\) (\d+\.\d+\.\d+)", content)}
        found |= {f"clang {version.decode()}" for version in re.findall(rb"clang version (\d+\.\d+\.\d+)", content)}
    return sorted(found)


def _look_at_state_directory(directory: Path) -> Finding:
    parent = directory
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        text = f"{directory} can't be written: {error.strerror or error}"
        return Finding(Verdict.BAD, "state", text, "set state_directory to a folder of yours")
    free = shutil.disk_usage(parent).free
    return Finding(Verdict.GOOD, "state", f"{directory} can be written, {format_bytes(free)} free")


def _look_at_safe_mode(startup: Startup) -> Iterator[Finding]:
    """Tell which builds the self-test found to be miscompiled."""
    memory = SafeModeMemory(startup.config.state_directory / SAFE_MODE_FILE)
    builds = {name: _build_id(backend) for name, backend in startup.plugins.backends.items()}
    failed = {name: build for name, build in builds.items() if build is not None and memory.holds(name, build)}
    if not failed:
        yield Finding(Verdict.GOOD, "safe mode", "no build that is in use has failed its self-test")
    for name, build in failed.items():
        advice = startup.plugins.backends[name].rebuild_command or "build its library again"
        text = f"{name} loads models in safe mode, more slowly: its build ({build}) crashed in its self-test"
        yield Finding(Verdict.NOTE, "safe mode", text, f"{advice}; a new build is tried afresh")


def _build_id(backend: BackendSpec) -> str | None:
    if backend.build_id is None:
        return None
    try:
        return backend.build_id()
    except (OSError, ImportError):
        return None


def _look_at_models(startup: Startup) -> Iterator[Finding]:
    catalog = startup.catalog
    specs, default = catalog.specs(), catalog.default
    for problem in catalog.problems:
        yield Finding(Verdict.NOTE, "models", problem)
    if not specs:
        place = catalog.options.directory / "chat"
        yield Finding(Verdict.BAD, "models", "there are none", f"put a GGUF file into {place}")
        return
    text = f"{', '.join(specs)}; default: {default or 'none'}"
    yield Finding(Verdict.GOOD if default else Verdict.NOTE, "models", text)
