"""Which layers of a model go to which GPU: arithmetic over a table of devices, no library."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from .settings import LlamaCppSettings, SplitMode

RESERVE_BYTES = 512 * 1024 * 1024
"""What is left free on every GPU: for the driver, for kernels' workspaces, for the screen."""

DeviceKind = Literal["cpu", "gpu", "igpu", "accel", "other"]

_UNIFIED = frozenset({"metal", "mtl"})  # backends whose GPUs have no memory of their own, although they count as GPUs
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Device:
    """What the library computes on. ``backend`` brought it ("CUDA", "Vulkan", …); 0 bytes: it doesn't tell."""

    name: str
    description: str
    kind: DeviceKind
    free_bytes: int
    total_bytes: int
    backend: str = ""
    device_id: str = ""

    @property
    def shares_memory(self) -> bool:
        """Whether its memory is the computer's own."""
        return self.kind == "igpu" or self.backend.lower() in _UNIFIED


@dataclass(frozen=True, slots=True)
class Placement:
    """What one device gets. ``cache_share`` is its part (0 .. 1) of all layers' cache, ``cache_room_bytes`` what
    is free for that."""

    device: str
    layers: int
    weights_bytes: int
    cache_bytes: int
    compute_bytes: int
    cache_share: float
    cache_room_bytes: int

    @property
    def total_bytes(self) -> int:
        """All that it takes there."""
        return self.weights_bytes + self.cache_bytes + self.compute_bytes


@dataclass(frozen=True, slots=True)
class OffloadPlan:
    """What the library is told, and what comes of it. Layers are counted with the output layer."""

    n_gpu_layers: int
    split_mode: SplitMode
    main_gpu: int
    tensor_split: tuple[float, ...]
    layers_total: int
    placements: tuple[Placement, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """Layers that go to GPUs."""
        return sum(placement.layers for placement in self.placements)

    def cache_budget(self, host_bytes: int) -> int:
        """Return how much the whole cache may take so that each device holds its part, and the computer the rest."""
        limits = [place.cache_room_bytes / place.cache_share for place in self.placements if place.cache_share > 0]
        left = 1 - sum(place.cache_share for place in self.placements)
        if left > 1e-6 or not limits:
            limits.append(host_bytes / max(left, 1e-6) if limits else host_bytes)
        return max(0, int(min(limits)))


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """What a model takes, in bytes. ``layers`` are its weights by layer, the output layer last.

    ``caches`` is the cache of each layer for one whole context; the output layer has none. ``compute`` is taken on
    every device that has layers.
    """

    layers: Sequence[int]
    caches: Sequence[float]
    compute: int


def usable_gpus(devices: Sequence[Device]) -> tuple[Device, ...]:
    """Return the GPUs in the library's order, as it chooses them (``llama_prepare_model_devices``).

    A card that two backends see counts once; integrated GPUs count where there is no other.
    """
    cards: list[Device] = []
    for device in devices:
        seen = bool(device.device_id) and any(card.device_id == device.device_id for card in cards)
        if device.kind == "gpu" and not seen:
            cards.append(device)
    if cards:
        return tuple(cards)
    integrated = [device for device in devices if device.kind == "igpu"]
    return tuple(device for device in integrated if device.backend == integrated[0].backend)


def plan_offload(
    devices: Sequence[Device],
    costs: ModelCosts,
    settings: LlamaCppSettings,
    *,
    host_free_bytes: int,
    reserve_bytes: int = RESERVE_BYTES,
) -> OffloadPlan:
    """Decide how many layers go to which GPU.

    A number given for ``n_gpu_layers`` stands as it is, -1 as all; "auto" is as many as fit beside the cache of one
    context with ``reserve_bytes`` left on each GPU. A model that one GPU can hold goes there whole, unless
    ``tensor_split`` or ``split_mode`` says otherwise: so no step has to cross from card to card, and the others are
    free for other models. Raises ``ValueError`` for a ``main_gpu`` that is not there.
    """
    gpus = usable_gpus(devices)
    if not gpus or settings.n_gpu_layers == 0:
        return _on_cpu(costs, settings, gpus)
    if settings.split_mode == "none":
        if settings.main_gpu >= len(gpus):
            listed = ", ".join(f"{number}: {gpu.name}" for number, gpu in enumerate(gpus))
            message = f"main_gpu is {settings.main_gpu}, but the GPUs are {listed}"
            raise ValueError(message)
        gpus = gpus[settings.main_gpu : settings.main_gpu + 1]
    rooms = [_free_bytes(gpu, host_free_bytes) - reserve_bytes - costs.compute for gpu in gpus]
    planner = _Planner(gpus, rooms, costs, settings)
    return planner.as_many_as_fit() if settings.n_gpu_layers == "auto" else planner.as_told(settings.n_gpu_layers)


def _on_cpu(costs: ModelCosts, settings: LlamaCppSettings, gpus: Sequence[Device]) -> OffloadPlan:
    wanted = settings.n_gpu_layers
    notes: tuple[str, ...] = ()
    if not gpus and wanted not in ("auto", 0, -1):
        notes = (f"n_gpu_layers is {wanted}, but there is no GPU that this build can use: all layers stay on the CPU.",)
    return OffloadPlan(
        n_gpu_layers=0 if wanted == "auto" else wanted,
        split_mode=settings.split_mode,
        main_gpu=settings.main_gpu,
        tensor_split=tuple(settings.tensor_split),
        layers_total=len(costs.layers),
        notes=notes,
    )


def _free_bytes(gpu: Device, host_free_bytes: int) -> int:
    if not gpu.shares_memory:
        return gpu.free_bytes
    return min(gpu.free_bytes, host_free_bytes) if gpu.total_bytes else host_free_bytes


class _Planner:
    """Plans for GPUs that are there. ``rooms`` are the bytes that weights and cache may take on each, if any."""

    def __init__(
        self, gpus: Sequence[Device], rooms: Sequence[int], costs: ModelCosts, settings: LlamaCppSettings
    ) -> None:
        self._gpus = gpus
        self._rooms = rooms
        self._costs = costs
        self._settings = settings
        caches = [*costs.caches, 0.0] if settings.offload_kqv else [0.0] * len(costs.layers)
        self._items = [(weights, cache) for weights, cache in zip(costs.layers, caches, strict=True)]
        self._all = len(costs.layers)
        rows_by_room = settings.split_mode == "row" and settings.n_gpu_layers == "auto"
        self._wished = self._padded(settings.tensor_split)
        self._shares = self._wished or self._padded(
            [max(0, room) for room in rooms] if rows_by_room else [gpu.free_bytes for gpu in gpus]
        )

    def _padded(self, shares: Sequence[float]) -> list[float]:
        """Return a share for each GPU, nothing when all are 0."""
        given = [_float32(share) for share in shares[: len(self._gpus)]]
        return given + [0.0] * (len(self._gpus) - len(given)) if any(given) else []

    def as_told(self, wanted: int) -> OffloadPlan:
        n = self._all if wanted < 0 else min(wanted, self._all)
        placements = self._placed(n, self._counts(n))
        notes = tuple(
            f"{place.device} has {max(0, room) / _GIB:.1f} GiB for weights and cache, but {place.layers} layers and a "
            f"whole context take {(place.weights_bytes + place.cache_bytes) / _GIB:.1f} GiB: use n_gpu_layers = "
            f'"auto", or a lower number, if loading fails.'
            for place, room in zip(placements, self._rooms, strict=True)
            if place.layers and place.weights_bytes + place.cache_bytes > room
        )
        settings = self._settings
        split = tuple(settings.tensor_split)
        return OffloadPlan(wanted, settings.split_mode, settings.main_gpu, split, self._all, placements, notes)

    def as_many_as_fit(self) -> OffloadPlan:
        settings = self._settings
        split = tuple(settings.tensor_split)
        if settings.split_mode == "layer" and not self._wished and len(self._gpus) > 1:
            return self._free_choice()
        n = next(n for n in range(self._all, -1, -1) if self._fits(n, self._counts(n)))
        if settings.split_mode == "row":
            split = tuple(self._shares)
        return self._automatic(n, self._placed(n, self._counts(n)), settings.split_mode, settings.main_gpu, split)

    def _free_choice(self) -> OffloadPlan:
        """Nobody said how to split: one GPU if that is enough, else one after the other."""
        whole = [room for room in self._rooms if self._bytes(0, self._all) <= room]
        if whole:
            gpu = self._rooms.index(max(whole))
            on_one = [self._all if number == gpu else 0 for number in range(len(self._gpus))]
            return self._automatic(self._all, self._placed(self._all, on_one), "none", gpu, ())
        fillings = ((n, self._filled(n)) for n in range(self._all, -1, -1))  # no layers always fit
        n, counts = next((n, counts) for n, counts in fillings if counts is not None)
        # Whole numbers: the library's shares then fall exactly between the layers.
        return self._automatic(n, self._placed(n, counts), "layer", 0, tuple(map(float, counts)))

    def _automatic(
        self, n: int, placements: tuple[Placement, ...], mode: SplitMode, main_gpu: int, split: tuple[float, ...]
    ) -> OffloadPlan:
        notes: tuple[str, ...] = ()
        if n < self._all:
            places = ", ".join(
                f"{gpu.name} with {max(0, room) / _GIB:.1f} GiB"
                for gpu, room in zip(self._gpus, self._rooms, strict=True)
            )
            notes = (f"{n} of {self._all} layers are on the GPU, as many as fit: {places} for weights and cache.",)
        wanted = -1 if n == self._all else n  # the library may know of further layers, which draft tokens
        return OffloadPlan(wanted, mode, main_gpu, split if n else (), self._all, placements, notes)

    def _counts(self, n: int) -> list[int]:
        """Return how many of the last ``n`` layers each GPU gets, by the library's own rule (``load_tensors``)."""
        shares = self._shares or [1.0] * len(self._gpus)
        sums = list(accumulate(map(_float32, shares), lambda a, b: _float32(a + b)))
        ends = [_float32(part / sums[-1]) for part in sums]
        counts = [0] * len(self._gpus)
        for index in range(n):
            place = _float32(index / n)
            counts[next(number for number, end in enumerate(ends) if end > place)] += 1
        return counts

    def _filled(self, n: int) -> list[int] | None:
        """Return how many of the last ``n`` layers each GPU takes when each is filled in turn; None: not all fit."""
        counts, begin, end = [], self._all - n, self._all
        for room in self._rooms:
            count, used = 0, 0.0
            while begin + count < end and used + sum(self._items[begin + count]) <= room:
                used += sum(self._items[begin + count])
                count += 1
            counts.append(count)
            begin += count
        return counts if begin == end else None

    def _fits(self, n: int, counts: Sequence[int]) -> bool:
        return all(
            place.weights_bytes + place.cache_bytes <= room
            for place, room in zip(self._placed(n, counts), self._rooms, strict=True)
            if place.layers or place.weights_bytes
        )

    def _bytes(self, begin: int, end: int) -> float:
        return sum(weights + cache for weights, cache in self._items[begin:end])

    def _placed(self, n: int, counts: Sequence[int]) -> tuple[Placement, ...]:
        """Return what each GPU takes of the last ``n`` layers."""
        settings = self._settings
        rows = settings.split_mode == "row"  # each has a part of every matrix, and the cache of its own layers
        parts = self._shares or [1.0] * len(self._gpus)
        whole_cache = sum(self._costs.caches)
        weights_in_rows = sum(weights for weights, _ in self._items[self._all - n :])
        placements, begin = [], self._all - n
        for gpu, room, count, part in zip(self._gpus, self._rooms, counts, parts, strict=True):
            own = self._items[begin : begin + count]
            begin += count
            weights = round(weights_in_rows * part / sum(parts)) if rows else sum(weights for weights, _ in own)
            cache = sum(cache for _, cache in own)
            placements.append(
                Placement(
                    device=gpu.name,
                    layers=count,
                    weights_bytes=weights,
                    cache_bytes=round(cache),
                    compute_bytes=self._costs.compute if count or weights else 0,
                    cache_share=cache / whole_cache if whole_cache else 0.0,
                    cache_room_bytes=max(0, room - weights),
                )
            )
        return tuple(placements)


def _float32(number: float) -> float:
    value: float = struct.unpack("f", struct.pack("f", number))[0]
    return value
