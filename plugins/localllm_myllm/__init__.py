"""MyLLM's endpoints as its clients know them, below ``/api``: generate, chat, embeddings, models."""

from __future__ import annotations

from starlette.routing import Route

from localllm import PluginContext, RegisterRoute, hookimpl

from .doc import CHAT, EMBEDDINGS, GENERATE, MODELS
from .endpoint import MyLLMEndpoints


@hookimpl
def localllm_register_routes(context: PluginContext, register: RegisterRoute) -> None:
    """Add the four endpoints; what goes wrong with them is told as ``{"detail": message}``."""
    endpoints = MyLLMEndpoints(context)
    for name, handle, method, doc in (
        ("generate", endpoints.generate, "POST", GENERATE),
        ("chat", endpoints.chat, "POST", CHAT),
        ("embeddings", endpoints.embeddings, "POST", EMBEDDINGS),
        ("models", endpoints.models, "GET", MODELS),
    ):
        path = f"/api/{name}"
        register(Route(path, handle, methods=[method]), name=f"myllm:{path}", errors="detail", doc=doc)
