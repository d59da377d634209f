"""``POST /v1/embeddings``: texts in, one vector for each of them out."""

from __future__ import annotations

from starlette.routing import Route

from localllm import PluginContext, RegisterRoute, hookimpl

from .doc import EMBEDDINGS_DOC
from .endpoint import EmbeddingsEndpoint


@hookimpl
def localllm_register_routes(context: PluginContext, register: RegisterRoute) -> None:
    """Add the endpoint, with and without ``/v1``."""
    endpoint = EmbeddingsEndpoint(context)
    for prefix in ("/v1", ""):
        path = f"{prefix}/embeddings"
        doc = EMBEDDINGS_DOC if prefix else None
        register(Route(path, endpoint.handle, methods=["POST"]), name=f"embeddings:{path}", doc=doc)
