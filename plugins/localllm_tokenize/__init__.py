"""``/tokenize``, ``/detokenize``, ``/apply-template`` and counting a chat's tokens: texts as a model sees them."""

from __future__ import annotations

from starlette.routing import Route

from localllm import PluginContext, RegisterRoute, hookimpl

from .doc import APPLY_TEMPLATE_DOC, DETOKENIZE_DOC, INPUT_TOKENS_DOC, TOKENIZE_DOC
from .endpoint import TokenizeEndpoints


@hookimpl
def localllm_register_routes(context: PluginContext, register: RegisterRoute) -> None:
    """Add the endpoints, with and without ``/v1``."""
    endpoints = TokenizeEndpoints(context)
    handlers = {
        "/tokenize": (endpoints.tokenize, TOKENIZE_DOC),
        "/detokenize": (endpoints.detokenize, DETOKENIZE_DOC),
        "/apply-template": (endpoints.apply_template, APPLY_TEMPLATE_DOC),
        "/chat/completions/input_tokens": (endpoints.input_tokens, INPUT_TOKENS_DOC),
    }
    for place, (handler, doc) in handlers.items():
        for prefix in ("", "/v1"):
            path = f"{prefix}{place}"
            route = Route(path, handler, methods=["POST"])
            register(route, name=f"tokenize:{path}", doc=doc if prefix else None)
