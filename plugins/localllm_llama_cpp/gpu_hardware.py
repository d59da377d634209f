"""Which GPUs this computer has, whether the library can use them or not, and how to build it so that it can."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .hardware import REBUILD_COMMAND


@dataclass(frozen=True, slots=True)
class GpuBackend:
    """One way to compute on a GPU: its flag for CMake, and what must be installed to build with it."""

    name: str
    flag: str
    needs: str


BACKENDS = (
    GpuBackend("CUDA", "-DGGML_CUDA=on", "NVIDIA's CUDA toolkit (nvcc)"),
    GpuBackend("Vulkan", "-DGGML_VULKAN=on", "the Vulkan SDK (on Debian and Ubuntu: libvulkan-dev glslc)"),
    GpuBackend("Metal", "-DGGML_METAL=on", "Xcode's command line tools"),
    GpuBackend("ROCm", "-DGGML_HIP=on", "AMD's ROCm (hipcc)"),
)
"""What llama.cpp is built with for the GPUs that people have; the fastest for each maker comes first."""

_REGISTERED_AS: Mapping[str, str] = {"cuda": "CUDA", "vulkan": "Vulkan", "mtl": "Metal", "metal": "Metal"} | {
    "rocm": "ROCm",
    "hip": "ROCm",
}
_BEST: Mapping[str, str] = {"NVIDIA": "CUDA", "AMD": "ROCm", "Intel": "Vulkan", "Apple": "Metal"}
_VENDORS: Mapping[str, str] = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}  # PCI vendor ids
_DISPLAY_CLASSES = ("0x0300", "0x0302", "0x0380")  # VGA, 3D, other display controllers


def seen_gpus(root: Path = Path("/"), system: str | None = None) -> tuple[str, ...]:
    """Return the makers of this computer's GPUs, by what the system says of its devices; no driver is asked."""
    if (system or platform.system()) == "Darwin":
        return ("Apple",)
    devices = sorted((root / "sys/bus/pci/devices").glob("*"))
    displays = [device for device in devices if _read(device / "class").startswith(_DISPLAY_CLASSES)]
    found = [_VENDORS.get(_read(device / "vendor"), "") for device in displays]
    if (root / "proc/driver/nvidia/version").exists() or (root / "dev/nvidia0").exists():
        found.append("NVIDIA")  # a container sees the driver where it sees no bus
    if (root / "dev/kfd").exists():
        found.append("AMD")
    return tuple(dict.fromkeys(filter(None, found)))


def backend_name(registered: str) -> str:
    """Return what people call a backend that the library registered under its own name."""
    return _REGISTERED_AS.get(registered.lower(), registered)


def missing_backend(makers: Sequence[str], built: Sequence[str]) -> GpuBackend | None:
    """Return what the build should have for the GPUs that there are; None when it has something that runs on them."""
    names = {backend_name(name) for name in built}
    for maker in makers:
        best = _BEST[maker]
        if names.isdisjoint({best, "Vulkan"}):
            return next(backend for backend in BACKENDS if backend.name == best)
    return None


def install_command(flags: str) -> str:
    """Return the command that builds the library with CMake's ``flags``: by the Makefile in a checkout, else by pip."""
    checkout = Path(__file__).parents[2]
    if (checkout / "Makefile").is_file() and (checkout / "pyproject.toml").is_file():
        return f'make rebuild-llama CMAKE_ARGS="{flags}"'
    return f'CMAKE_ARGS="{flags}" {REBUILD_COMMAND}'


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
