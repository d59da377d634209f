"""``POST /v1/chat/completions``: one conversation in, the next assistant message out."""

from __future__ import annotations

from starlette.routing import Route

from localllm import PluginContext, RegisterRoute, hookimpl

from .doc import CHAT_DOC
from .endpoint import ChatEndpoint
from .settings import ChatSettings


@hookimpl
def localllm_config_section() -> type:
    """Declare ``[plugin.chat]``."""
    return ChatSettings


@hookimpl
def localllm_register_routes(context: PluginContext, register: RegisterRoute) -> None:
    """Add the endpoint, with and without ``/v1``."""
    endpoint = ChatEndpoint(context)
    for prefix in ("/v1", ""):
        path = f"{prefix}/chat/completions"
        register(Route(path, endpoint.handle, methods=["POST"]), name=f"chat:{path}", doc=CHAT_DOC if prefix else None)
