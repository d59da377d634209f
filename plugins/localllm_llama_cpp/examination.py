"""Answers ``localllm doctor`` in a child process: the build, the devices, and what would go to which of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import llama_cpp
import llama_cpp.llama_cpp as lib

from localllm import Finding, LoadRequest, ModelLoadError, Verdict

from .build_report import cpu_flags, describe_compiler, describe_devices, describe_features, features_of
from .devices import list_devices
from .gpu_plan import OffloadPlan
from .hardware import build_id
from .log import native_log
from .offload import describe_offload, plan_for
from .settings import LlamaCppSettings
from .tensors import read_numbers


def examine(models: Sequence[LoadRequest]) -> Sequence[Finding]:
    """Return what there is to say of the build, of devices and of each model; no model is loaded."""
    native_log()  # its lines go to stderr
    lib.llama_backend_init()
    flags = cpu_flags()
    features = features_of(lib.llama_print_system_info().decode("utf-8", "replace"))
    return [
        describe_features(build_id(), features, flags),
        describe_compiler(Path(llama_cpp.__file__).parent / "lib", flags),
        describe_devices(list_devices()),
        *_offloads(models),
    ]


def _offloads(models: Sequence[LoadRequest]) -> Iterator[Finding]:
    for model in models:
        if model.path is None:
            continue
        subject = f"offload of {model.model_id}"
        try:
            settings = LlamaCppSettings.from_mapping(model.settings)
            plan, planned = plan_for(model, Path(model.path), settings)
        except (ModelLoadError, TypeError, ValueError) as error:
            yield Finding(Verdict.BAD, subject, str(error), "mend its settings")
            continue
        n_layer = read_numbers(Path(model.path))[1].get("block_count", 0)
        data = {
            **describe_offload(plan, int(n_layer) if isinstance(n_layer, float) else 0),
            "n_gpu_layers": planned.n_gpu_layers,
            "split_mode": planned.split_mode,
            "main_gpu": planned.main_gpu,
            "tensor_split": list(planned.tensor_split),
        }
        verdict = Verdict.NOTE if plan.notes else Verdict.GOOD
        yield Finding(verdict, subject, _describe(plan, data["layers_total"]), " ".join(plan.notes), data)


def _describe(plan: OffloadPlan, layers_total: object) -> str:
    if not plan.layers:
        return f"all {layers_total} layers on the CPU"
    places = ", ".join(
        f"{place.layers} on {place.device} ({place.total_bytes / 2**30:.1f} GiB)"
        for place in plan.placements
        if place.layers
    )
    return f"{plan.layers} of {layers_total} layers on GPUs: {places}"
