"""``localllm doctor``: looks at everything that a server needs, and says what to mend and how."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import typer

from localllm.cli.engines import ask_engine, models_of_interest
from localllm.cli.failure import RUNTIME_ERROR
from localllm.cli.output import format_bytes, print_json
from localllm.cli.startup import Startup, prepare
from localllm.config.errors import ConfigError
from localllm.contract.backend import BackendSpec
from localllm.contract.diagnosis import Finding, Verdict
from localllm.host.safe_mode import SafeModeMemory
from localllm.plugin_discovery import PluginError

PACKAGES = ("localllm", "llama_cpp_python", "starlette", "hypercorn", "uvloop", "orjson", "pydantic", "jinja2", "numpy")
SAFE_MODE_FILE = "safe_mode.json"
_LITTLE_MEMORY_BYTES = 2_000_000_000


def report_doctor(
    path: Path | None, overrides: Sequence[str], *, all_models: bool = False, as_json: bool = False
) -> int:
    """Print all findings. Return 0, or ``RUNTIME_ERROR`` when something keeps the server from working."""
    found: list[Finding] = []
    for finding in examine(path, overrides, all_models=all_models):
        found.append(finding)
        if as_json:
            continue
        typer.echo(f"[{finding.verdict:4}] {finding.subject}: {finding.text}")
        for line in finding.advice.splitlines():
            typer.echo(f"       -> {line}")
    if as_json:
        print_json([asdict(finding) for finding in found])
    return RUNTIME_ERROR if any(finding.verdict is Verdict.BAD for finding in found) else 0


def examine(path: Path | None, overrides: Sequence[str], *, all_models: bool = False) -> Iterator[Finding]:
    """Yield the findings one by one; engines speak for themselves, in child processes, and of the default models."""
    yield _look_at_python()
    yield from _look_at_packages()
    yield _look_at_machine()
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
    models = models_of_interest(startup.catalog, all_models=all_models)
    for backend in startup.plugins.backends.values():
        if backend.examine is not None:
            yield from ask_engine(backend, [model for model in models if model.backend == backend.name])


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
    for model_id, definition in catalog.arriving.items():
        yield Finding(
            Verdict.NOTE, "models", f"{model_id} is not fetched yet; a server does so from {definition.source}"
        )
    if not specs and catalog.arriving:
        return
    if not specs:
        place = catalog.options.directory / "chat"
        yield Finding(Verdict.BAD, "models", "there are none", f"put a GGUF file into {place}")
        return
    text = f"{', '.join(specs)}; default: {default or 'none'}"
    yield Finding(Verdict.GOOD if default else Verdict.NOTE, "models", text)
