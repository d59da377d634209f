"""What is known of a model between reading its file and being ready: passed from one step of loading to the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import llama_cpp.llama_cpp as lib

from localllm import LoadRequest, MemoryUse

from .context import NativeModel
from .gpu_plan import OffloadPlan
from .memory_meter import MemoryMeter
from .settings import LlamaCppSettings


@dataclass(frozen=True, slots=True)
class Loading:
    """One model being loaded. ``settings`` have the planned numbers; ``free_bytes`` were free before it was read."""

    request: LoadRequest
    path: Path
    native: NativeModel
    settings: LlamaCppSettings
    offload: OffloadPlan
    free_bytes: int
    meter: MemoryMeter

    @property
    def weights_bytes(self) -> int:
        """The size of the tensors."""
        return int(lib.llama_model_size(self.native.model))

    def unclaimed_bytes(self) -> int:
        """Return what the weights leave of the computer's memory.

        Those of a mapped file come into memory only as they are used, so that what is free now would deceive.
        """
        offloaded = sum(place.weights_bytes for place in self.offload.placements)
        return max(0, self.free_bytes - max(0, self.weights_bytes - offloaded))

    def host_budget(self) -> int:
        """Return what caches and long texts may take of the computer's memory."""
        return int(self.unclaimed_bytes() * self.settings.memory_fraction)

    def cache_budget(self) -> int:
        """Return what the KV cache may take on all devices together."""
        return self.offload.cache_budget(self.host_budget())

    def memory(self, later_bytes: int = 0) -> MemoryUse | None:
        """Return what everything takes, as measured; ``later_bytes`` will come to it."""
        return self.meter.result(self.weights_bytes, self.native.buffers, later_bytes)
