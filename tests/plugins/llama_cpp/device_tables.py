"""Tables of devices as llama.cpp reports them on some computers, for plans that need no GPU to be checked."""

from __future__ import annotations

from localllm_llama_cpp.gpu_plan import Device

MIB, GIB = 2**20, 2**30
CPU = Device("CPU", "AMD Ryzen 7 5800X 8-Core Processor", "cpu", 30 * GIB, 32 * GIB, "CPU")


def cuda(number: int, free_gib: float, total_gib: float, description: str = "NVIDIA GeForce RTX 4060") -> Device:
    return Device(
        f"CUDA{number}",
        description,
        "gpu",
        int(free_gib * GIB),
        int(total_gib * GIB),
        "CUDA",
        f"0000:{number + 1:02d}:00.0",
    )


NONE = (CPU,)
ONE_CARD = (cuda(0, 7.4, 8.0), CPU)
TWO_UNEQUAL_CARDS = (cuda(0, 22.9, 24.0, "NVIDIA GeForce RTX 3090"), cuda(1, 7.4, 8.0), CPU)
CARD_SEEN_TWICE = (
    cuda(0, 7.4, 8.0),
    Device("Vulkan0", "NVIDIA GeForce RTX 4060", "gpu", int(7.5 * GIB), 8 * GIB, "Vulkan", "0000:01:00.0"),
    CPU,
)
CARD_AND_INTEGRATED = (
    cuda(0, 7.4, 8.0),
    Device("Vulkan1", "Intel(R) UHD Graphics 770", "igpu", 15 * GIB, 16 * GIB, "Vulkan", "0000:00:02.0"),
    CPU,
)
METAL = (
    Device("MTL0", "Apple M2", "gpu", 10 * GIB, int(10.6 * GIB), "MTL"),
    Device("BLAS", "Accelerate", "accel", 0, 0, "BLAS"),
    Device("CPU", "Apple M2", "cpu", 6 * GIB, 16 * GIB, "CPU"),
)
INTEGRATED = (
    Device("Vulkan0", "AMD Radeon 780M Graphics (RADV PHOENIX)", "igpu", 15 * GIB, 16 * GIB, "Vulkan", "0000:c1:00.0"),
    CPU,
)
TABLES = {
    "none": NONE,
    "one card": ONE_CARD,
    "two unequal cards": TWO_UNEQUAL_CARDS,
    "a card seen by two backends": CARD_SEEN_TWICE,
    "a card and integrated graphics": CARD_AND_INTEGRATED,
    "Metal": METAL,
    "integrated graphics": INTEGRATED,
}
