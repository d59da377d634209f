"""What doctor says of a build: compilers, abilities, and the GPUs that it can't use."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm import Verdict
from localllm_llama_cpp import gpu_hardware
from localllm_llama_cpp.build_report import describe_compiler, describe_devices, describe_features, features_of
from localllm_llama_cpp.gpu_hardware import BACKENDS, install_command, missing_backend, seen_gpus
from tests.plugins.llama_cpp.device_tables import INTEGRATED, METAL, NONE, TABLES, TWO_UNEQUAL_CARDS

SYSTEM = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | AMX_INT8 = 0 | LLAMAFILE = 1 | "
CUDA_SYSTEM = "CUDA : ARCHS = 890 | USE_GRAPHS = 1 | PEER_MAX_BATCH_SIZE = 128 | CPU : SSE3 = 1 | AVX512 = 1 | "


@pytest.mark.parametrize(
    ("compiler", "flags", "suspect"),
    [
        (b"GCC: (Debian 12.2.0-14) 12.2.0", {"fpu", "amx_tile", "amx_int8"}, True),
        (b"GCC: (Debian 12.2.0-14) 12.2.0", {"fpu", "avx512f"}, False),
        (b"GCC: (Ubuntu 13.3.0-6) 13.3.0", {"fpu", "amx_tile"}, False),
        (b"clang version 17.0.6", {"fpu", "amx_tile"}, False),
    ],
)
def test_builds_of_old_gcc_are_suspect_on_amx(tmp_path: Path, compiler: bytes, flags: set[str], suspect: bool) -> None:
    (tmp_path / "libggml-cpu.so").write_bytes(b"\x7fELF" + compiler + b"\0")
    found = describe_compiler(tmp_path, frozenset(flags))
    assert (found.verdict is Verdict.NOTE) is suspect
    assert ("-fno-dse" in found.text) is suspect


def test_features_are_those_that_are_on() -> None:
    assert features_of(SYSTEM) == ("AVX", "AVX2", "LLAMAFILE", "SSE3")
    assert features_of(CUDA_SYSTEM) == ("ARCHS", "AVX512", "CUDA", "PEER_MAX_BATCH_SIZE", "SSE3", "USE_GRAPHS")


def test_abilities_of_the_cpu_that_are_left_unused_are_told() -> None:
    plain = describe_features("build", features_of("CPU : SSE3 = 1"), frozenset({"avx2", "fma"}))
    assert (plain.verdict, plain.data["unused_cpu_features"]) == (Verdict.NOTE, ["AVX2", "FMA"])
    assert "this CPU also has AVX2, FMA" in plain.text
    assert "CXXFLAGS=-fno-dse" in plain.advice
    assert describe_features("build", features_of(SYSTEM), frozenset({"avx2"})).verdict is Verdict.GOOD


def pci(root: Path, *devices: tuple[str, str]) -> Path:
    for number, (kind, vendor) in enumerate(devices):
        folder = root / "sys/bus/pci/devices" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "class").write_text(f"{kind}\n")
        (folder / "vendor").write_text(f"{vendor}\n")
    return root


def test_gpus_are_seen_without_any_driver(tmp_path: Path) -> None:
    pci(tmp_path, ("0x030000", "0x8086"), ("0x020000", "0x10de"), ("0x030200", "0x10de"), ("0x038000", "0x1002"))
    assert seen_gpus(tmp_path, "Linux") == ("Intel", "NVIDIA", "AMD")
    assert seen_gpus(tmp_path, "Darwin") == ("Apple",)


def test_a_container_sees_the_driver_only(tmp_path: Path) -> None:
    assert seen_gpus(tmp_path, "Linux") == ()
    for name in ("proc/driver/nvidia/version", "dev/kfd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert seen_gpus(tmp_path, "Linux") == ("NVIDIA", "AMD")


@pytest.mark.parametrize(
    ("maker", "flag"),
    [
        ("NVIDIA", "-DGGML_CUDA=on"),
        ("AMD", "-DGGML_HIP=on"),
        ("Intel", "-DGGML_VULKAN=on"),
        ("Apple", "-DGGML_METAL=on"),
    ],
)
def test_a_gpu_that_the_build_cannot_use_gets_its_flag_and_command(maker: str, flag: str) -> None:
    found = describe_devices(NONE, (maker,))
    assert found.verdict is Verdict.NOTE
    assert f"for which {flag} is missing" in found.text
    assert install_command(flag) in found.advice


@pytest.mark.parametrize(
    ("table", "makers"),
    [(TWO_UNEQUAL_CARDS, ("NVIDIA",)), (METAL, ("Apple",)), (INTEGRATED, ("AMD",)), (INTEGRATED, ("Intel",))],
)
def test_nothing_is_missing_where_the_build_uses_the_gpu(table, makers: tuple[str, ...]) -> None:
    found = describe_devices(table, makers)
    assert (found.verdict, found.advice) == (Verdict.GOOD, "")


def test_without_any_gpu_the_ways_to_one_are_told() -> None:
    found = describe_devices(NONE, ())
    assert found.verdict is Verdict.GOOD
    assert all(backend.flag in found.advice for backend in BACKENDS)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_device_is_in_the_data_for_programs(table) -> None:
    devices = describe_devices(table, ()).data["devices"]
    assert [device["name"] for device in devices] == [device.name for device in table]


def test_vulkan_will_do_for_any_card() -> None:
    assert missing_backend(("NVIDIA", "AMD"), ["Vulkan"]) is None
    missing = missing_backend(("NVIDIA", "AMD"), ["CUDA"])
    assert missing is not None
    assert missing.name == "ROCm"


def test_outside_of_a_checkout_pip_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert install_command("-DGGML_CUDA=on") == 'make rebuild-llama CMAKE_ARGS="-DGGML_CUDA=on"'
    monkeypatch.setattr(gpu_hardware, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    command = install_command("-DGGML_CUDA=on")
    assert command.startswith('CMAKE_ARGS="-DGGML_CUDA=on" CXXFLAGS=-fno-dse pip install')
