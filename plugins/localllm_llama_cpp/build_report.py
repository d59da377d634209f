"""What the installed native build can do, and which of this computer's abilities it leaves unused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from localllm import Finding, Verdict

from .gpu_hardware import BACKENDS, install_command, missing_backend, seen_gpus
from .gpu_plan import Device
from .hardware import REBUILD_COMMAND

_CPU_FLAGS: Mapping[str, str] = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "amx_int8": "AMX_INT8",
}
"""What /proc/cpuinfo calls an ability, and what the library does when it was built with it."""

_BACKEND = re.compile(r"(\w+) : ")
_FEATURE = re.compile(r"(\w+) = (\d+)")


def cpu_flags() -> frozenset[str]:
    """Return what the system says that this CPU can do (x86 on Linux); nothing elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def features_of(system_info: str) -> tuple[str, ...]:
    """Return what is on in ``llama_print_system_info``'s line, sorted, and which backends it has beside the CPU."""
    backends = {name for name in _BACKEND.findall(system_info) if name != "CPU"}
    return tuple(sorted(backends | {name for name, value in _FEATURE.findall(system_info) if value != "0"}))


def describe_features(build: str, features: tuple[str, ...], flags: frozenset[str]) -> Finding:
    """Tell what the build was made with, and what this CPU has beyond that."""
    unused = sorted(name for flag, name in _CPU_FLAGS.items() if flag in flags and name not in features)
    data = {"build": build, "features": list(features), "unused_cpu_features": unused}
    text = f"loads; {build}; {' '.join(features) or 'no features'}"
    if "AVX2" in unused or "AVX512" in unused:
        return Finding(
            Verdict.NOTE,
            "llama.cpp",
            f"{text}; this CPU also has {', '.join(unused)}",
            f"build it on this machine: {REBUILD_COMMAND}",
            data,
        )
    return Finding(Verdict.GOOD, "llama.cpp", text, data=data)


def describe_compiler(library: Path, flags: frozenset[str]) -> Finding:
    """GCC before 13 drops stores into AMX's tile configuration unless ``-fno-dse`` is given (docs/architecture.md)."""
    has_amx = "amx_tile" in flags
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


def describe_devices(devices: tuple[Device, ...], makers: tuple[str, ...] | None = None) -> Finding:
    """Tell which devices the build computes on, and how to build it for a GPU that it can't use."""
    makers = seen_gpus() if makers is None else makers
    gpus = [device for device in devices if device.kind in ("gpu", "igpu")]
    commands = {backend.name: install_command(backend.flag) for backend in BACKENDS}
    data = {
        "devices": [_as_data(device) for device in devices],
        "gpus_seen": list(makers),
        "install_commands": commands,
    }
    text = "; ".join(map(_describe, gpus)) if gpus else "no GPU that this build can use; models run on the CPU"
    missing = missing_backend(makers, [gpu.backend for gpu in gpus])
    if missing is not None:
        text += f"; the computer has a GPU by {', '.join(makers)}, for which {missing.flag} is missing"
        advice = f"install {missing.needs}, then run: {commands[missing.name]}"
        if missing.name != "Metal":
            advice += f"\nor, with {BACKENDS[1].needs}: {commands['Vulkan']}"
        return Finding(Verdict.NOTE, "devices", text, advice, data)
    advice = "" if gpus else "\n".join(["for a GPU:", *(f"{name}: {line}" for name, line in commands.items())])
    return Finding(Verdict.GOOD, "devices", text, advice, data)


def _describe(device: Device) -> str:
    sizes = f"{device.free_bytes / 2**30:.1f} of {device.total_bytes / 2**30:.1f} GiB free"
    return f"{device.name} ({device.description}), {sizes}{', shared with the CPU' if device.shares_memory else ''}"


def _as_data(device: Device) -> dict[str, object]:
    return {
        "name": device.name,
        "description": device.description,
        "type": device.kind,
        "backend": device.backend,
        "free_bytes": device.free_bytes,
        "total_bytes": device.total_bytes,
    }


def _compilers(library: Path) -> list[str]:
    """Return the compilers that the library's files name in their comment sections."""
    found: set[str] = set()
    for file in sorted(library.glob("libggml-cpu*")):
        content = file.read_bytes()
        found |= {f"GCC {version.decode()}" for version in re.findall(rb"GCC: \([^)]*\) (\d+\.\d+\.\d+)", content)}
        found |= {f"clang {version.decode()}" for version in re.findall(rb"clang version (\d+\.\d+\.\d+)", content)}
    return sorted(found)
