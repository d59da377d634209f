"""The built-in engine: GGUF models by llama.cpp. Hooks only; the library itself is loaded in workers alone."""

from __future__ import annotations

from localllm import BackendSpec, Mode, ModelSpec, PluginContext, RegisterBackend, hookimpl

from .hardware import REBUILD_COMMAND, build_id
from .memory_estimate import estimate
from .pooling_rules import why_not
from .settings import LlamaCppSettings


@hookimpl
def localllm_config_section() -> type:
    """Declare ``[plugin.llama_cpp]``, whose keys ``[models.define.<id>]`` may repeat for one model."""
    return LlamaCppSettings


@hookimpl
def localllm_register_backends(context: PluginContext, register: RegisterBackend) -> None:
    """Register the engine ``llama_cpp``."""
    register(
        BackendSpec(
            name="llama_cpp",
            modes=frozenset({Mode.GENERATE, Mode.POOL}),
            factory="localllm_llama_cpp.loader:load",
            settings=LlamaCppSettings,
            build_id=build_id,
            refuses=_refuses,
            estimate=estimate,
            examine="localllm_llama_cpp.examination:examine",
            rebuild_command=REBUILD_COMMAND,
        )
    )


def _refuses(model: ModelSpec, mode: Mode) -> str | None:
    return why_not(str(model.meta.get("arch", ""))) if mode is Mode.POOL else None
