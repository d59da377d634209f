"""``/tokenize``, ``/detokenize``, ``/apply-template`` and counting a chat's tokens: texts as a model sees them."""

from __future__ import annotations

from starlette.routing import Route

from localllm import PluginContext, RegisterRoute, hookimpl

from .endpoint import TokenizeEndpoints


@hookimpl
def localllm_register_routes(context: PluginContext, register: RegisterRoute) -> None:
    """Add the endpoints, with and without ``/v1``."""
    endpoints = TokenizeEndpoints(context)
    handlers = {
        "/tokenize": endpoints.tokenize,
        "/detokenize": endpoints.detokenize,
        "/apply-template": endpoints.apply_template,
        "/chat/completions/input_tokens": endpoints.input_tokens,
    }
    for place, handler in handlers.items():
        for prefix in ("", "/v1"):
            path = f"{prefix}{place}"
            register(Route(path, handler, methods=["POST"]), name=f"tokenize:{path}")
