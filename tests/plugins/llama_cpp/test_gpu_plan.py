"""Which layers go to which GPU, against tables of devices as they were recorded, and rules for all of them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm_llama_cpp.gpu_plan import RESERVE_BYTES, Device, ModelCosts, plan_offload, usable_gpus
from localllm_llama_cpp.settings import LlamaCppSettings
from tests.plugins.llama_cpp.device_tables import (
    CARD_AND_INTEGRATED,
    CARD_SEEN_TWICE,
    GIB,
    INTEGRATED,
    METAL,
    MIB,
    NONE,
    ONE_CARD,
    TABLES,
    TWO_UNEQUAL_CARDS,
    cuda,
)

EXAMPLES = 2000 if os.environ.get("LOCALLLM_TEST_FULL") else 80
HOST_BYTES = 30 * GIB

# As a model of 7 B parameters in 4 bits has them: 32 layers, and the output layer.
SEVEN_B = ModelCosts(layers=[120 * MIB] * 32 + [100 * MIB], caches=[32.0 * MIB] * 32, compute=300 * MIB)
HUGE = ModelCosts(layers=[900 * MIB] * 60 + [400 * MIB], caches=[64.0 * MIB] * 60, compute=500 * MIB)


def plan(devices: tuple[Device, ...], costs: ModelCosts = SEVEN_B, host_bytes: int = HOST_BYTES, **wanted: Any):
    return plan_offload(devices, costs, LlamaCppSettings(**wanted), host_free_bytes=host_bytes)


# --- recorded tables -------------------------------------------------------------------------------------------------


def test_without_a_gpu_everything_stays_on_the_cpu() -> None:
    found = plan(NONE)
    assert (found.n_gpu_layers, found.layers, found.placements, found.notes) == (0, 0, (), ())


def test_a_number_without_a_gpu_is_kept_and_said_to_do_nothing() -> None:
    found = plan(NONE, n_gpu_layers=20)
    assert found.n_gpu_layers == 20
    assert found.notes == (
        "n_gpu_layers is 20, but there is no GPU that this build can use: all layers stay on the CPU.",
    )
    assert plan(NONE, n_gpu_layers=-1).notes == ()


def test_what_fits_goes_to_the_card_whole() -> None:
    found = plan(ONE_CARD)
    assert (found.n_gpu_layers, found.layers, found.layers_total, found.notes) == (-1, 33, 33, ())
    (place,) = found.placements
    assert (place.device, place.weights_bytes, place.cache_bytes) == ("CUDA0", 3940 * MIB, 1024 * MIB)


def test_of_what_does_not_fit_as_many_layers_go_as_do() -> None:
    found = plan(ONE_CARD, HUGE)
    room = int(7.4 * GIB) - RESERVE_BYTES - HUGE.compute
    assert found.n_gpu_layers == 1 + (room - 400 * MIB) // (964 * MIB)  # the output layer is the first to go
    assert found.notes == (
        f"{found.n_gpu_layers} of 61 layers are on the GPU, as many as fit: CUDA0 with 6.4 GiB for weights and cache.",
    )


def test_a_model_that_one_card_holds_goes_to_the_roomiest_and_to_no_other() -> None:
    found = plan(TWO_UNEQUAL_CARDS)
    assert (found.split_mode, found.main_gpu, found.n_gpu_layers) == ("none", 0, -1)
    assert [place.layers for place in found.placements] == [33, 0]
    swapped = plan((TWO_UNEQUAL_CARDS[1], TWO_UNEQUAL_CARDS[0]))
    assert (swapped.split_mode, swapped.main_gpu) == ("none", 1)


def test_a_larger_one_is_spread_over_both_by_what_they_hold() -> None:
    found = plan(TWO_UNEQUAL_CARDS, HUGE)
    first, second = found.placements
    assert found.split_mode == "layer"
    assert found.tensor_split == (float(first.layers), float(second.layers))
    assert first.layers > 3 * second.layers > 0


def test_shares_that_were_given_are_kept() -> None:
    found = plan(TWO_UNEQUAL_CARDS, tensor_split=[1, 1])
    assert (found.tensor_split, found.split_mode) == ((1, 1), "layer")
    assert [place.layers for place in found.placements] == [17, 16]


def test_rows_are_shared_by_what_is_free() -> None:
    found = plan(TWO_UNEQUAL_CARDS, HUGE, split_mode="row")
    first, second = found.placements
    rooms = [device.free_bytes - RESERVE_BYTES - HUGE.compute for device in TWO_UNEQUAL_CARDS[:2]]
    assert found.tensor_split == pytest.approx(rooms, rel=1e-6)
    assert first.weights_bytes / second.weights_bytes == pytest.approx(rooms[0] / rooms[1], rel=0.01)


def test_one_gpu_can_be_chosen() -> None:
    found = plan(TWO_UNEQUAL_CARDS, split_mode="none", main_gpu=1)
    assert (found.split_mode, found.main_gpu) == ("none", 1)
    assert [place.device for place in found.placements] == ["CUDA1"]


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="main_gpu is 2, but the GPUs are 0: CUDA0, 1: CUDA1"):
        plan(TWO_UNEQUAL_CARDS, split_mode="none", main_gpu=2)


def test_a_number_is_kept_even_where_it_will_not_fit_but_that_is_said() -> None:
    found = plan(ONE_CARD, HUGE, n_gpu_layers=40)
    assert (found.n_gpu_layers, found.layers) == (40, 40)
    assert 'use n_gpu_layers = "auto"' in found.notes[0]
    assert plan(ONE_CARD, n_gpu_layers=10).notes == ()


def test_a_card_that_two_backends_see_counts_once() -> None:
    assert [gpu.name for gpu in usable_gpus(CARD_SEEN_TWICE)] == ["CUDA0"]


def test_integrated_graphics_count_where_there_is_no_card() -> None:
    assert [gpu.name for gpu in usable_gpus(CARD_AND_INTEGRATED)] == ["CUDA0"]
    assert [gpu.name for gpu in usable_gpus(INTEGRATED)] == ["Vulkan0"]


@pytest.mark.parametrize("table", [METAL, INTEGRATED], ids=["Metal", "integrated"])
def test_memory_that_is_shared_with_the_cpu_is_not_counted_twice(table: tuple[Device, ...]) -> None:
    assert plan(table).layers == 33
    assert plan(table, host_bytes=3 * GIB).layers < 33
    assert plan(table, host_bytes=0).layers == 0


def test_a_cache_that_stays_with_the_cpu_needs_no_room_on_the_card() -> None:
    card = (cuda(0, 5.0, 6.0),)
    assert plan(card).layers < 33
    kept = plan(card, offload_kqv=False)
    assert kept.layers == 33
    assert kept.placements[0].cache_bytes == 0
    assert kept.cache_budget(HOST_BYTES) == HOST_BYTES


def test_the_cache_may_take_what_the_weights_leave() -> None:
    found = plan(ONE_CARD)
    left = int(7.4 * GIB) - RESERVE_BYTES - SEVEN_B.compute - sum(SEVEN_B.layers)
    assert found.cache_budget(HOST_BYTES) == left
    half = plan(ONE_CARD, n_gpu_layers=17)  # 16 of the 32 layers that have a cache
    assert half.cache_budget(1 * GIB) == 2 * GIB, "the other half is the computer's to hold"


def test_a_split_that_names_none_of_the_gpus_is_none() -> None:
    found = plan(TWO_UNEQUAL_CARDS, tensor_split=[0.0, 0.0, 1.0])
    assert found == plan(TWO_UNEQUAL_CARDS)


# --- rules -----------------------------------------------------------------------------------------------------------

gpus = st.lists(st.floats(0, 80), min_size=1, max_size=4).map(
    lambda sizes: tuple(cuda(number, size, 80) for number, size in enumerate(sizes))
)
models = st.integers(1, 30).flatmap(
    lambda n_layer: st.builds(
        ModelCosts,
        layers=st.lists(st.integers(1, 2 * GIB), min_size=n_layer + 1, max_size=n_layer + 1),
        caches=st.lists(st.floats(0, GIB), min_size=n_layer, max_size=n_layer),
        compute=st.integers(0, 2 * GIB),
    )
)
splits = st.one_of(st.just([]), st.lists(st.one_of(st.just(0.0), st.floats(0.01, 10)), min_size=1, max_size=4))
modes = st.sampled_from(["layer", "row", "none"])


@given(gpus, models, splits, modes)
@settings(max_examples=EXAMPLES)
def test_automatic_layers_never_take_more_than_what_is_free_beside_the_reserve(
    devices: tuple[Device, ...], costs: ModelCosts, split: list[float], mode: str
) -> None:
    found = plan(devices, costs, tensor_split=split, split_mode=mode)
    free = {device.name: device.free_bytes for device in devices}
    for place in found.placements:
        if place.layers or place.weights_bytes:
            assert place.total_bytes <= free[place.device] - RESERVE_BYTES + 2  # halves of bytes
    assert 0 <= found.layers <= len(costs.layers)
    assert found.n_gpu_layers == (-1 if found.layers == len(costs.layers) else found.layers)


@given(gpus, models, splits, st.sampled_from(["layer", "none"]), st.integers(0, 3), st.integers(1, 20 * GIB))
@settings(max_examples=EXAMPLES)
def test_more_memory_never_gives_fewer_layers(
    devices: tuple[Device, ...], costs: ModelCosts, split: list[float], mode: str, number: int, more_bytes: int
) -> None:
    number %= len(devices)
    grown = tuple(
        replace(device, free_bytes=device.free_bytes + more_bytes * (place == number))
        for place, device in enumerate(devices)
    )
    less, more = (plan(table, costs, tensor_split=split, split_mode=mode) for table in (devices, grown))
    assert more.layers >= less.layers


@given(gpus, models, splits, modes, st.integers(-1, 100))
@settings(max_examples=EXAMPLES)
def test_what_was_said_is_passed_on_as_it_is(
    devices: tuple[Device, ...], costs: ModelCosts, split: list[float], mode: str, number: int
) -> None:
    found = plan(devices, costs, tensor_split=split, split_mode=mode, n_gpu_layers=number)
    assert (found.n_gpu_layers, found.split_mode, found.tensor_split) == (number, mode, tuple(split))
    if number:
        assert found.layers == (len(costs.layers) if number < 0 else min(number, len(costs.layers)))


@given(gpus, models)
@settings(max_examples=EXAMPLES)
def test_counts_passed_as_shares_put_each_layer_where_it_was_planned(
    devices: tuple[Device, ...], costs: ModelCosts
) -> None:
    """The library cuts by shares in float32 (``load_tensors``); told the counts, it must come to the same."""
    found = plan(devices, costs)
    if found.split_mode == "layer" and found.layers and len(devices) > 1:
        told = plan(devices, costs, tensor_split=list(found.tensor_split), n_gpu_layers=found.n_gpu_layers)
        assert [place.layers for place in told.placements] == [place.layers for place in found.placements]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("mode", ["layer", "row", "none"])
def test_every_table_gives_a_plan(table: tuple[Device, ...], mode: str) -> None:
    found = plan(table, HUGE, split_mode=mode)
    assert 0 <= found.layers <= 61
    assert found.cache_budget(HOST_BYTES) >= 0
