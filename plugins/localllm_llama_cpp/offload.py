"""Plans in the worker what goes to which GPU, from the devices that there are and the model's file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from localllm import LoadRequest, LocalLLMError, Mode, ModelLoadError

from .compute_memory import generation_bytes
from .devices import list_devices
from .gpu_plan import Device, ModelCosts, OffloadPlan, plan_offload, usable_gpus
from .hardware import available_memory_bytes
from .memory import CELL_STEP, MemoryPlan
from .model_facts import ModelFacts, layer_bytes, read_facts
from .settings import LlamaCppSettings
from .tensors import read_numbers, tensor_bytes

PLANNED_CONTEXT = 8192
"""Tokens of context that every plan has room for on the GPU, when nobody asked for a length; more if memory is left."""

_BLOCK = re.compile(r"blk\.(\d+)\.")
_OUTPUT = re.compile(r"(output|cls|dec\.output|enc\.output)")
_EMBEDDINGS = "token_embd.weight"


def plan_for(request: LoadRequest, path: Path, settings: LlamaCppSettings) -> tuple[OffloadPlan, LlamaCppSettings]:
    """Return the plan, and the settings with what it says. Costs nothing where there is no GPU.

    Raises ``ModelLoadError`` for settings that no device fits.
    """
    devices: Sequence[Device] = list_devices() if lib.llama_supports_gpu_offload() else ()
    planned = bool(usable_gpus(devices)) and settings.n_gpu_layers != 0
    costs = model_costs(path, settings, request.mode) if planned else ModelCosts((), (), 0)
    try:
        plan = plan_offload(devices, costs, settings, host_free_bytes=available_memory_bytes())
    except ValueError as error:
        message = f"Model {request.model_id!r} can't be put where its settings say: {error}."
        raise ModelLoadError(message) from error
    return plan, settings_of(settings, plan)


def settings_of(settings: LlamaCppSettings, plan: OffloadPlan) -> LlamaCppSettings:
    """Return ``settings`` with the numbers that were planned in the place of "auto"."""
    return replace(
        settings,
        n_gpu_layers=plan.n_gpu_layers,
        split_mode=plan.split_mode,
        main_gpu=plan.main_gpu,
        tensor_split=list(plan.tensor_split),
    )


def describe_offload(plan: OffloadPlan, n_layer: int) -> Mapping[str, Any]:
    """Return the plan as plain JSON, layers counted with the output layer."""
    return {
        "layers": plan.layers,
        "layers_total": plan.layers_total or n_layer + 1,
        "devices": [
            {"name": place.device, "layers": place.layers, "planned_bytes": place.total_bytes}
            for place in plan.placements
            if place.layers or place.weights_bytes
        ],
    }


@contextmanager
def telling(plan: OffloadPlan) -> Iterator[None]:
    """Have errors that speak of lacking memory say how many layers were planned for GPUs: the next try takes fewer."""
    try:
        yield
    except LocalLLMError as error:
        if error.detail.get("reason") == "memory":
            error.detail["gpu_layers"] = plan.layers
        raise


def model_costs(path: Path, settings: LlamaCppSettings, mode: Mode) -> ModelCosts:
    """Return what each layer of a file takes, with its parts of the adapters, read in their headers.

    A header that is silent about its sizes gives costs without a cache: loading will say what is wrong with it.
    """
    tensors = Counter(tensor_bytes(path))
    for adapter in settings.lora:
        tensors.update(tensor_bytes(adapter.file))  # its tensors are called as those that they change, and go with them
    architecture, numbers, n_vocab = read_numbers(path)
    try:
        facts = read_facts(architecture, numbers.get, n_vocab)
    except ValueError:
        return ModelCosts((*_weights(tensors, 0),), (), 0)
    context = settings.context_length or min(facts.n_ctx_train, PLANNED_CONTEXT)
    n_ctx = -(-context // CELL_STEP) * CELL_STEP
    cells = 0 if mode is Mode.POOL else n_ctx
    caches = [
        cells * layer_bytes(layer, settings.cache_type_k, settings.cache_type_v)
        + 4.0 * layer.state * (settings.parallel + settings.cached_sequences)
        for layer in facts.layers
    ]
    return ModelCosts(_weights(tensors, len(facts.layers)), caches, _compute(facts, settings, n_ctx))


def _compute(facts: ModelFacts, settings: LlamaCppSettings, n_ctx: int) -> int:
    plan = MemoryPlan("unified", n_ctx, settings.parallel, settings.cached_sequences, n_ctx, 0)
    flash = settings.flash_attention is not False
    return generation_bytes(facts, plan, settings.n_ubatch, swa_full=settings.swa_full, flash_attention=flash)


def _weights(tensors: Mapping[str, int], n_layer: int) -> tuple[int, ...]:
    """Return the bytes of each layer, the output layer last. The embeddings stay with the CPU.

    Where they serve as the output layer too, a copy of them goes with it.
    """
    layers = [0] * (n_layer + 1)
    for name, n_bytes in tensors.items():
        if match := _BLOCK.match(name):
            if int(match[1]) < n_layer:
                layers[int(match[1])] += n_bytes
        elif _OUTPUT.match(name):
            layers[n_layer] += n_bytes
    if "output.weight" not in tensors:
        layers[n_layer] += tensors.get(_EMBEDDINGS, 0)
    return tuple(layers)
