"""Where models can be pulled from: ``hf:`` (Hugging Face), ``https:`` and ``file:``."""

from __future__ import annotations

from localllm import PluginContext, RegisterSource, SourceSpec, hookimpl

from .settings import SourcesSettings


@hookimpl
def localllm_config_section() -> type:
    """Return the settings of ``[plugin.sources]``."""
    return SourcesSettings


@hookimpl
def localllm_register_sources(context: PluginContext, register: RegisterSource) -> None:
    """Add the sources. Their code runs in the process that fetches, and only there."""
    register(SourceSpec("hf", "localllm_sources.hugging_face:make_source", example="hf:org/repo:Q4_K_M"))
    register(SourceSpec("https", "localllm_sources.web:make_https", example="https://host/model.gguf#sha256=…"))
    register(SourceSpec("http", "localllm_sources.web:make_http", example="http://nas.lan/model.gguf"))
    register(SourceSpec("file", "localllm_sources.disk:make_source", example="file:/path/model.gguf", local=True))
