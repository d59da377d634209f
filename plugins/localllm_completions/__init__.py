"""``POST /v1/completions``: raw text or token ids in, what follows them out."""

from __future__ import annotations

from collections.abc import Callable

from starlette.routing import Route

from localllm import PluginContext, hookimpl

from .endpoint import CompletionsEndpoint


@hookimpl
def localllm_register_routes(context: PluginContext, register: Callable[..., None]) -> None:
    """Add the endpoint, with and without ``/v1``."""
    endpoint = CompletionsEndpoint(context)
    for prefix in ("/v1", ""):
        path = f"{prefix}/completions"
        register(Route(path, endpoint.handle, methods=["POST"]), name=f"completions:{path}")
