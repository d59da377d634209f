"""The endpoints about sessions: list, make, look at, change, delete, read, export, import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from localllm import (
    LocalLLMError,
    PluginContext,
    RegisterRoute,
    Session,
    SessionChange,
    SessionNotFoundError,
    SessionStore,
    Turn,
    caller_of,
    check_content_type,
    read_json,
)
from localllm.openai import parse_new_session, parse_session_change

from . import manual
from .history import split_turns
from .interceptor import check_id, store_of
from .objects import index_behind, list_object, message_object, read_page, session_object
from .settings import SessionsSettings
from .titles import title_of
from .transfer import IMPORT_MEDIA, JSON_LINES, Import, copied_turns, export_lines


def register_routes(context: PluginContext, register: RegisterRoute) -> None:
    """Add all endpoints. Importing comes first: its path would be a session's."""
    settings: SessionsSettings = context.config
    ends = SessionEndpoints(context)
    one = "/v1/sessions/{id}"
    register(
        Route("/v1/sessions/import", ends.import_lines, methods=["POST"]),
        name="sessions:import",
        max_body_bytes=settings.max_import_bytes,
        doc=manual.IMPORT,
    )
    register(Route("/v1/sessions", ends.list, methods=["GET"]), name="sessions", doc=manual.LIST)
    register(Route("/v1/sessions", ends.create, methods=["POST"]), name="sessions:create", doc=manual.CREATE)
    register(Route(one, ends.get, methods=["GET"]), name="session", doc=manual.GET)
    register(Route(one, ends.change, methods=["PATCH"]), name="session:change", doc=manual.CHANGE)
    register(Route(one, ends.delete, methods=["DELETE"]), name="session:delete", doc=manual.DELETE)
    register(Route(f"{one}/messages", ends.messages, methods=["GET"]), name="session:messages", doc=manual.MESSAGES)
    register(Route(f"{one}/export", ends.export, methods=["GET"]), name="session:export", doc=manual.EXPORT)


class SessionEndpoints:
    """The handlers. Everything is asked of the store in the name of the caller's API key."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context
        self._settings: SessionsSettings = context.config

    async def list(self, request: Request) -> Response:
        """Answer one page of the caller's sessions, the one that was used last first."""
        page = read_page(request.query_params)
        after = None if page.after is None else check_id(page.after, "after")
        try:
            found = await self._store.list(caller_of(request), limit=page.limit + 1, after=after)
        except SessionNotFoundError:
            raise SessionNotFoundError(after or "", param="after") from None
        entries = [session_object(session) for session in found[: page.limit]]
        return _json(list_object(entries, has_more=len(found) > page.limit))

    async def create(self, request: Request) -> Response:
        """Begin a session: empty, with messages, or with those of another one."""
        owner, store = caller_of(request), self._store
        wanted = parse_new_session(await read_json(request))
        title, model, turns = wanted.title, wanted.model, [Turn(part) for part in split_turns(wanted.plain_messages)]
        if wanted.copy_of is not None:
            source = await _find(store, owner, wanted.copy_of, "copy_of")
            turns = await copied_turns(store, source, wanted.n_messages)
            title, model = source.title if title is None else title, model or source.model
        if title is None:
            title = title_of(wanted.plain_messages)
        session = await store.create(owner, model=model, title=title, metadata=wanted.metadata, turns=turns)
        return _json(session_object(session), status=201)

    async def get(self, request: Request) -> Response:
        """Answer a session."""
        return _json(session_object(await self._session(request)))

    async def change(self, request: Request) -> Response:
        """Change title and metadata, and answer the session."""
        session_id = check_id(request.path_params["id"])
        wanted = parse_session_change(await read_json(request))
        change = SessionChange(wanted.title, wanted.metadata)
        return _json(session_object(await self._store.change(caller_of(request), session_id, change)))

    async def delete(self, request: Request) -> Response:
        """Forget a session."""
        session_id = check_id(request.path_params["id"])
        await self._store.delete(caller_of(request), session_id)
        return _json({"id": session_id, "object": "session.deleted", "deleted": True})

    async def messages(self, request: Request) -> Response:
        """Answer one page of a session's messages, the oldest first."""
        page = read_page(request.query_params)
        session_id = check_id(request.path_params["id"])
        start = index_behind(page.after)
        found = await self._store.messages(caller_of(request), session_id, limit=page.limit + 1, start=start)
        entries = [message_object(one) for one in found[: page.limit]]
        return _json(list_object(entries, has_more=len(found) > page.limit))

    async def export(self, request: Request) -> Response:
        """Answer a session as JSON lines."""
        session = await self._session(request)
        headers = {"content-disposition": f'attachment; filename="session-{session.id}.jsonl"'}
        return StreamingResponse(export_lines(self._store, session), media_type=JSON_LINES, headers=headers)

    async def import_lines(self, request: Request) -> Response:
        """Take in what an export gave, as a session of the caller's with an id of its own."""
        check_content_type(request.headers.get("content-type"), IMPORT_MEDIA)
        taken = Import()
        try:
            await taken.read(request)
        except LocalLLMError as error:
            if error.code == "request_too_large":  # the server names its own setting, which doesn't count here
                limit = self._settings.max_import_bytes
                error.message = f"An import may have {limit} bytes; raise plugin.sessions.max_import_bytes for more."
            raise
        return _json(session_object(await taken.create(self._store, caller_of(request))), status=201)

    @property
    def _store(self) -> SessionStore:
        return store_of(self._context)

    async def _session(self, request: Request) -> Session:
        return await _find(self._store, caller_of(request), request.path_params["id"])


async def _find(store: SessionStore, owner: str, session_id: str, param: str = "session_id") -> Session:
    try:
        return await store.get(owner, check_id(session_id, param))
    except SessionNotFoundError:
        raise SessionNotFoundError(session_id[:64], param=param) from None


def _json(body: Mapping[str, Any], *, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json")
