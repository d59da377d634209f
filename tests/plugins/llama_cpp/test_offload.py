"""What the worker makes of a table of devices and a file: parameters for the library, facts for the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localllm import LoadRequest, Mode, ModelLoadError, ModelSpec
from localllm.host.fitting import with_fewer_gpu_layers
from localllm.testing.tiny_lora import write_tiny_lora
from localllm.testing.tiny_model import write_tiny_llama, write_tiny_mamba
from localllm_llama_cpp import context, loader, native_params, offload
from localllm_llama_cpp.adapter_settings import AdapterSettings
from localllm_llama_cpp.devices import list_devices
from localllm_llama_cpp.gpu_plan import RESERVE_BYTES
from localllm_llama_cpp.loader import load
from localllm_llama_cpp.log import native_log
from localllm_llama_cpp.settings import LlamaCppSettings
from localllm_llama_cpp.tensors import read_numbers, tensor_bytes
from tests.plugins.llama_cpp.device_tables import GIB, MIB, ONE_CARD, TWO_UNEQUAL_CARDS, Device, cuda

N_LAYER = 4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offload")
    return write_tiny_llama(folder / "m.gguf", n_layer=N_LAYER, n_vocab=2048, n_embd=128, n_ff=512, n_ctx=2048)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have the build know GPUs. The real library loads to the CPU all the same, whatever it is told."""

    def pretend(table: tuple[Device, ...]) -> None:
        monkeypatch.setattr(offload, "list_devices", lambda: table)
        monkeypatch.setattr(offload.lib, "llama_supports_gpu_offload", lambda: True)

    return pretend


def test_the_real_devices_are_listed_with_their_memory() -> None:
    table = list_devices()
    (cpu,) = [device for device in table if device.kind == "cpu"]
    assert cpu.name == "CPU"
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    assert cpu.total_bytes > 100 * MIB


def test_a_build_without_gpus_is_not_asked_for_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "list_devices", lambda: pytest.fail("devices were listed"))
    monkeypatch.setattr(offload, "tensor_bytes", lambda _: pytest.fail("the header was read for nothing"))
    model = load(LoadRequest("m", str(path), Mode.GENERATE))
    assert model.info.meta["offload"] == {"layers": 0, "layers_total": N_LAYER + 1, "devices": []}
    model.close()


def test_what_was_planned_is_told(path: Path, devices: Any) -> None:
    devices(ONE_CARD)
    model = load(LoadRequest("m", str(path), Mode.GENERATE))
    told = model.info.meta["offload"]
    assert (told["layers"], told["layers_total"]) == (N_LAYER + 1, N_LAYER + 1)
    (device,) = told["devices"]
    assert (device["name"], device["layers"]) == ("CUDA0", N_LAYER + 1)
    assert device["planned_bytes"] > path.stat().st_size
    assert model.info.notes == ()
    model.close()


def test_what_does_not_fit_is_told_in_a_note(path: Path, devices: Any) -> None:
    costs = offload.model_costs(path, LlamaCppSettings(), Mode.GENERATE)
    two_layers = costs.layers[-1] + costs.layers[-2] + costs.caches[-1]
    free = RESERVE_BYTES + costs.compute + two_layers + 1000
    devices((cuda(0, free / GIB, 8),))
    model = load(LoadRequest("m", str(path), Mode.GENERATE))
    assert model.info.meta["offload"]["layers"] == 2
    assert f"2 of {N_LAYER + 1} layers are on the GPU" in model.info.notes[0]
    model.close()


def test_the_plan_reaches_the_library(path: Path, devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int, int]] = []
    read = native_params.lib.llama_model_load_from_file

    def note(name: bytes, params: Any) -> Any:
        told.append((params.n_gpu_layers, params.split_mode, params.main_gpu))
        return read(name, params)

    monkeypatch.setattr(loader.lib, "llama_model_load_from_file", note)
    devices(TWO_UNEQUAL_CARDS)
    for settings in ({}, {"split_mode": "row"}, {"n_gpu_layers": 3}, {"n_gpu_layers": 0}):
        load(LoadRequest("m", str(path), Mode.GENERATE, settings)).close()
    none, layer, row = 0, 1, 2  # enum llama_split_mode
    assert told == [(-1, none, 0), (-1, row, 0), (3, layer, 0), (0, layer, 0)]


def test_the_cache_is_cut_to_what_the_card_holds(path: Path, devices: Any) -> None:
    costs = offload.model_costs(path, LlamaCppSettings(), Mode.GENERATE)
    whole = load(LoadRequest("m", str(path), Mode.GENERATE)).info.meta["kv_cells"]
    free = RESERVE_BYTES + costs.compute + sum(costs.layers) + sum(costs.caches) + 1000
    devices((cuda(0, free / GIB, 8),))
    model = load(LoadRequest("m", str(path), Mode.GENERATE))
    assert model.info.meta["offload"]["layers"] == N_LAYER + 1
    assert model.info.meta["kv_cells"] == 2048 < whole
    model.close()


def test_a_gpu_that_is_not_there_is_a_typed_error(path: Path, devices: Any) -> None:
    devices(TWO_UNEQUAL_CARDS)
    with pytest.raises(ModelLoadError, match="Model 'm' can't be put where its settings say: main_gpu is 5"):
        load(LoadRequest("m", str(path), Mode.GENERATE, {"split_mode": "none", "main_gpu": 5}))


@pytest.mark.parametrize(
    "words",
    [
        "unable to allocate CUDA0 buffer",
        "alloc_buffer: allocating 900.00 MiB on device 0: cudaMalloc failed: out of memory",
        "ggml_vulkan: vk::Device::createBuffer: ErrorOutOfDeviceMemory",
        "ggml_metal_buffer_init: error: failed to allocate buffer, size = 900.00 MiB",
    ],
)
def test_a_load_that_fails_for_lack_of_memory_says_so(
    path: Path, devices: Any, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    def out_of_memory(*_: Any) -> None:
        native_log().first_error = words

    devices(ONE_CARD)
    monkeypatch.setattr(loader.lib, "llama_model_load_from_file", out_of_memory)
    monkeypatch.setattr(native_params.lib, "llama_supports_gpu_offload", lambda: True)
    with pytest.raises(ModelLoadError) as caught:
        load(LoadRequest("m", str(path), Mode.GENERATE))
    assert caught.value.detail == {"reason": "memory", "gpu_layers": N_LAYER + 1}
    with pytest.raises(ModelLoadError) as caught:
        load(LoadRequest("m", str(path), Mode.GENERATE, {"n_gpu_layers": 0}))
    assert caught.value.detail == {"reason": "memory", "device": "cpu", "gpu_layers": 0}


@pytest.mark.parametrize("mode", list(Mode))
def test_a_load_that_fails_tells_the_plan_and_the_next_try_takes_less(
    path: Path, devices: Any, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """The file fits, by the plan, with two layers on the GPU, and then the context can't be made."""

    def out_of_memory(*_: Any) -> None:
        native_log().first_error = "cudaMalloc failed: out of memory"

    costs = offload.model_costs(path, LlamaCppSettings(), mode)
    free = RESERVE_BYTES + costs.compute + costs.layers[-1] + costs.layers[-2] + costs.caches[-1] + 1000
    devices((cuda(0, free / GIB, 8),))
    monkeypatch.setattr(context.lib, "llama_init_from_model", out_of_memory)
    monkeypatch.setattr(native_params.lib, "llama_supports_gpu_offload", lambda: True)
    with pytest.raises(ModelLoadError) as caught:
        load(LoadRequest("m", str(path), mode))
    assert caught.value.detail == {"reason": "memory", "gpu_layers": 2}
    spec = ModelSpec("m", "llama_cpp", settings={"n_gpu_layers": "auto"}, meta={"n_layer": N_LAYER})
    again = with_fewer_gpu_layers(spec, caught.value)
    assert again is not None
    assert again.settings["n_gpu_layers"] == 1


@pytest.mark.parametrize("mode", list(Mode))
def test_a_context_that_never_fits_says_so(path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    def out_of_memory(*_: Any) -> None:
        native_log().first_error = "failed to allocate buffer for kv cache"

    monkeypatch.setattr(context.lib, "llama_init_from_model", out_of_memory)
    with pytest.raises(ModelLoadError) as caught:
        load(LoadRequest("m", str(path), mode))
    assert caught.value.detail == {"reason": "memory", "device": "cpu", "gpu_layers": 0}


# --- the file's header -----------------------------------------------------------------------------------------------


def test_costs_are_those_of_the_file(path: Path) -> None:
    costs = offload.model_costs(path, LlamaCppSettings(), Mode.GENERATE)
    tensors = tensor_bytes(path)
    assert len(costs.layers) == N_LAYER + 1
    assert len(set(costs.layers[:N_LAYER])) == 1
    embeddings = tensors["token_embd.weight"]
    assert sum(costs.layers) == sum(tensors.values()) - embeddings, "the embeddings stay with the CPU"
    assert costs.caches == [2048 * 64 * 2 * 2.0] * N_LAYER  # cells, numbers of keys, values too, two bytes
    quantised = LlamaCppSettings(cache_type_k="q8_0", cache_type_v="q8_0", context_length=512)
    assert offload.model_costs(path, quantised, Mode.GENERATE).caches == [512 * 64 * 2 * 34 / 32] * N_LAYER


def test_embeddings_that_are_the_output_layer_too_are_copied_to_the_gpu(tmp_path: Path) -> None:
    tied = write_tiny_llama(tmp_path / "tied.gguf", tie_embeddings=True)
    tensors = tensor_bytes(tied)
    costs = offload.model_costs(tied, LlamaCppSettings(), Mode.GENERATE)
    assert costs.layers[-1] == tensors["token_embd.weight"] + tensors["output_norm.weight"]


def test_adapters_go_with_the_layers_that_they_change(path: Path, tmp_path: Path) -> None:
    adapters = [
        write_tiny_lora(tmp_path / "a.gguf", path, rank=8, targets=("blk.1.attn_q.weight", "output.weight")),
        write_tiny_lora(tmp_path / "b.gguf", path, rank=2, targets=("blk.1.attn_q.weight",)),
        tmp_path / "none.gguf",
    ]
    settings = LlamaCppSettings(lora=[AdapterSettings(path=adapter) for adapter in adapters])
    bare, more = (offload.model_costs(path, one, Mode.GENERATE) for one in (LlamaCppSettings(), settings))
    grown = [more.layers[index] - bare.layers[index] for index in range(N_LAYER + 1)]
    assert grown == [0, (8 + 2) * (128 + 128) * 4, 0, 0, 8 * (128 + 2048) * 4]


def test_a_running_state_is_counted_for_every_sequence(tmp_path: Path) -> None:
    mamba = write_tiny_mamba(tmp_path / "mamba.gguf")
    few = LlamaCppSettings(parallel=1, cached_sequences=0)
    many = LlamaCppSettings(parallel=4, cached_sequences=8)
    one, twelve = (offload.model_costs(mamba, settings, Mode.GENERATE) for settings in (few, many))
    assert twelve.caches == [12 * cache for cache in one.caches]
    assert one.caches[0] > 0


def test_all_parts_of_a_split_file_count(path: Path, tmp_path: Path) -> None:
    first = tmp_path / "m-00001-of-00002.gguf"
    first.write_bytes(path.read_bytes())
    second = write_tiny_mamba(tmp_path / "m-00002-of-00002.gguf")
    assert tensor_bytes(first) == {**tensor_bytes(path), **tensor_bytes(second)}


def test_a_file_that_cannot_be_read_has_no_numbers(tmp_path: Path) -> None:
    assert read_numbers(tmp_path / "none.gguf") == ("", {}, 0)
    assert tensor_bytes(tmp_path / "none.gguf") == {}
