"""Lists the devices that the library computes on, with their memory: in the worker, for asking a GPU takes it."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as lib
from llama_cpp._ctypes_extensions import load_shared_library

from .gpu_plan import Device, DeviceKind

_KINDS: dict[int, DeviceKind] = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}  # enum ggml_backend_dev_type


class _Caps(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_bool) for name in ("async", "host_buffer", "buffer_from_host_ptr", "events", "mmap_support")
    )


class _Props(ctypes.Structure):
    """``ggml_backend_dev_props`` (ggml-backend.h)."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", _Caps),
    )


def list_devices() -> tuple[Device, ...]:
    """Return all devices of the build, in the library's order. A GPU's context is made where there is one."""
    lib.llama_backend_init()  # registers the backends
    base, registry = _libraries()
    return tuple(_describe(base, registry.ggml_backend_dev_get(index)) for index in range(_count(registry)))


def _count(registry: Any) -> int:  # noqa: ANN401  # ctypes.CDLL
    return int(registry.ggml_backend_dev_count())


def _describe(base: Any, device: int) -> Device:  # noqa: ANN401  # ctypes.CDLL
    props = _Props()
    base.ggml_backend_dev_get_props(device, ctypes.byref(props))
    backend = base.ggml_backend_reg_name(base.ggml_backend_dev_backend_reg(device))
    return Device(
        name=_text(props.name),
        description=_text(props.description),
        kind=_KINDS.get(props.type, "other"),
        free_bytes=int(props.memory_free),
        total_bytes=int(props.memory_total),
        backend=_text(backend),
        device_id=_text(props.device_id),
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace").strip()


@functools.cache
def _libraries() -> tuple[Any, Any]:
    """Return ``ggml-base``, which describes devices, and ``ggml``, which knows them: the bindings have neither."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    base, registry = load_shared_library("ggml-base", folder), load_shared_library("ggml", folder)
    base.ggml_backend_dev_get_props.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Props)]
    base.ggml_backend_dev_get_props.restype = None
    base.ggml_backend_dev_backend_reg.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_backend_reg.restype = ctypes.c_void_p
    base.ggml_backend_reg_name.argtypes = [ctypes.c_void_p]
    base.ggml_backend_reg_name.restype = ctypes.c_char_p
    registry.ggml_backend_dev_count.argtypes = []
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    return base, registry
