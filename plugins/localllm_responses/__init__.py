"""``/v1/responses`` and ``/v1/conversations``: OpenAI's newer endpoints, with all that they keep."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localllm import EndpointDoc, PluginContext, RegisterRoute, hookimpl

from . import docs
from .conversations import ConversationEndpoints
from .create import CreateEndpoint
from .desk import Desk, desk_of
from .input_tokens import InputTokensEndpoint
from .settings import ResponsesSettings
from .simple import SimpleEndpoint
from .stored import StoredEndpoints

_Handler = Callable[[Request], Awaitable[Response]]
_Entry = tuple[str, str, _Handler, EndpointDoc]


@hookimpl
def localllm_config_section() -> type:
    """Declare ``[plugin.responses]``."""
    return ResponsesSettings


@hookimpl
def localllm_register_routes(context: PluginContext, register: RegisterRoute) -> None:
    """Add the endpoints, with and without ``/v1``. In the simple shape there is one, and nothing is kept."""
    settings: ResponsesSettings = context.config
    entries: list[_Entry] = (
        [("POST", "/responses", SimpleEndpoint(context).handle, docs.SIMPLE)]
        if settings.shape == "simple"
        else _entries(desk_of(context))
    )
    for method, place, handler, doc in entries:
        for prefix in ("/v1", ""):
            path = f"{prefix}{place}"
            route = Route(path, handler, methods=[method])
            register(route, name=f"responses:{method} {path}", doc=doc if prefix else None)


@hookimpl
def localllm_lifespan(context: PluginContext) -> AbstractAsyncContextManager[None]:
    """End, with the server, what is still written in the background."""
    return _ending(desk_of(context))


@asynccontextmanager
async def _ending(desk: Desk) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await desk.jobs.close()


def _entries(desk: Desk) -> list[_Entry]:
    create = CreateEndpoint(desk)
    stored = StoredEndpoints(desk)
    conversations = ConversationEndpoints(desk)
    one, item = "/conversations/{conversation_id}", "/conversations/{conversation_id}/items/{item_id}"
    return [
        ("POST", "/responses", create.handle, docs.CREATE),
        ("POST", "/responses/input_tokens", InputTokensEndpoint(desk, create).handle, docs.INPUT_TOKENS),
        ("GET", "/responses/{response_id}", stored.get, docs.GET),
        ("DELETE", "/responses/{response_id}", stored.delete, docs.DELETE),
        ("POST", "/responses/{response_id}/cancel", stored.cancel, docs.CANCEL),
        ("GET", "/responses/{response_id}/input_items", stored.input_items, docs.INPUT_ITEMS),
        ("POST", "/conversations", conversations.create, docs.NEW_CONVERSATION),
        ("GET", one, conversations.get, docs.GET_CONVERSATION),
        ("POST", one, conversations.change, docs.CHANGE_CONVERSATION),
        ("DELETE", one, conversations.delete, docs.DELETE_CONVERSATION),
        ("POST", f"{one}/items", conversations.add_items, docs.ADD_ITEMS),
        ("GET", f"{one}/items", conversations.list_items, docs.LIST_ITEMS),
        ("GET", item, conversations.get_item, docs.GET_ITEM),
        ("DELETE", item, conversations.delete_item, docs.DELETE_ITEM),
    ]
