"""``POST /v1/completions``: raw text or token ids in, what follows them out."""

from __future__ import annotations

from starlette.routing import Route

from localllm import PluginContext, RegisterRoute, hookimpl

from .doc import COMPLETIONS_DOC
from .endpoint import CompletionsEndpoint


@hookimpl
def localllm_register_routes(context: PluginContext, register: RegisterRoute) -> None:
    """Add the endpoint, with and without ``/v1``."""
    endpoint = CompletionsEndpoint(context)
    for prefix in ("/v1", ""):
        path = f"{prefix}/completions"
        doc = COMPLETIONS_DOC if prefix else None
        register(Route(path, endpoint.handle, methods=["POST"]), name=f"completions:{path}", doc=doc)
