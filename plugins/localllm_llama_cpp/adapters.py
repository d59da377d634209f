"""LoRA adapters: loads their files beside a model's, and puts them into its context."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import llama_cpp.llama_cpp as lib

from localllm import ModelLoadError

from .adapter_settings import AdapterSettings
from .log import Buffer, NativeLog

_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class Adapters:
    """A model's adapters with their usual scales, and what they took. The library frees them with the model."""

    names: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    handles: Sequence[Any] = field(default_factory=tuple)
    buffers: tuple[Buffer, ...] = ()

    def apply(self, context: Any, scales: Sequence[float] | None = None) -> None:  # noqa: ANN401  # llama_context
        """Have ``context`` compute with the adapters, at ``scales`` or their usual ones; 0 leaves one out.

        Between two batches only. A change has the library plan its memory anew at the next one.
        """
        if not self.handles:
            return
        count = len(self.handles)
        handles = (lib.llama_adapter_lora_p_ctypes * count)(*self.handles)
        values = (ctypes.c_float * count)(*(self.scales if scales is None else scales))
        lib.llama_set_adapters_lora(context, handles, count, values)

    @property
    def named(self) -> tuple[tuple[str, float], ...]:
        """Return each adapter's name with its usual scale."""
        return tuple(zip(self.names, self.scales, strict=True))

    def describe(self) -> list[dict[str, Any]]:
        """Return what is shown of them to callers, in the words by which requests name them."""
        return [{"id": index, "name": name, "scale": scale} for index, (name, scale) in enumerate(self.named)]


NO_ADAPTERS = Adapters()


def load_adapters(model_id: str, model: Any, log: NativeLog, wanted: Sequence[AdapterSettings]) -> Adapters:  # noqa: ANN401  # llama_model
    """Load the adapters of a model, before its context is made: the context keeps room in its graph for them.

    Raises ``ModelLoadError``, which names the file.
    """
    log.listen()
    handles = [_load(model_id, model, log, adapter) for adapter in wanted]
    labels, scales = [adapter.label for adapter in wanted], [adapter.scale for adapter in wanted]
    return Adapters(tuple(labels), tuple(scales), handles, log.heard())


def _load(model_id: str, model: Any, log: NativeLog, adapter: AdapterSettings) -> Any:  # noqa: ANN401
    _check_beginning(model_id, adapter)
    log.forget_errors()
    handle = lib.llama_adapter_lora_init(model, str(adapter.file).encode())
    if not handle:
        reason = log.first_error.rpartition("failed to apply lora adapter: ")[2] or "llama.cpp gave no reason"
        message = f"The LoRA adapter {adapter.file} does not fit model {model_id!r}: {reason}."
        raise ModelLoadError(message)
    if lib.llama_adapter_get_alora_n_invocation_tokens(handle):
        message = (
            f"The LoRA adapter {adapter.file} of model {model_id!r} is to count only behind certain tokens (aLoRA), "
            "which this server can't do. Leave it out of lora."
        )
        raise ModelLoadError(message)
    return handle


def _check_beginning(model_id: str, adapter: AdapterSettings) -> None:
    try:
        with adapter.file.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        message = f"The LoRA adapter {adapter.file} of model {model_id!r} can't be read: {error.strerror}."
        raise ModelLoadError(message) from error
    if magic != _MAGIC:
        message = (
            f"The LoRA adapter {adapter.file} of model {model_id!r} is not a GGUF file; it starts with {magic!r}. "
            "Convert it with llama.cpp's convert_lora_to_gguf.py."
        )
        raise ModelLoadError(message)
