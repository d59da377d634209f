"""Finds the session that a generation belongs to, and lets its turns go one after the other."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

from localllm import (
    Asked,
    ChatPrompt,
    InvalidRequestError,
    PluginContext,
    Session,
    SessionNotFoundError,
    SessionStore,
    UnsupportedFeatureError,
    new_session_id,
)

from .conversation import Conversation
from .ordering import TurnOrder
from .settings import SessionsSettings

NEW: Final = "new"
"""In place of an id: begin a session. Ids that the server makes up look otherwise."""

_ID: Final = re.compile(r"[A-Za-z0-9._:~-]{1,256}")
_MAX_SHOWN_CHARS: Final = 64


class SessionInterceptor:
    """Registered once; see ``Interceptor``."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context
        self._settings: SessionsSettings = context.config
        self.order = TurnOrder()

    async def before(self, asked: Asked) -> Conversation | None:
        """Find or begin the session, once the turns before are over."""
        wish, store = asked.session, self._context.session_store()
        if wish is None or store is None:
            return None
        _check(asked)
        if wish.id is None or wish.id == NEW:
            now = time.time()
            session = Session(new_session_id(), asked.owner, now, now)
            # A stream tells the id at once: who goes on with it has to wait until there is something to go on with.
            release = await self.order.take((asked.owner, session.id))
            return self._conversation(store, asked, session, release, is_new=True)
        check_id(wish.id, wish.param)
        release = await self.order.take((asked.owner, wish.id))
        try:
            session = await store.get(asked.owner, wish.id)
        except BaseException as error:
            release()
            if isinstance(error, SessionNotFoundError):
                raise SessionNotFoundError(wish.id, param=wish.param) from None
            raise
        return self._conversation(store, asked, session, release, is_new=False)

    def _conversation(
        self, store: SessionStore, asked: Asked, session: Session, release: Callable[[], None], *, is_new: bool
    ) -> Conversation:
        return Conversation(store, asked, session, is_new=is_new, overflow=self._settings.overflow, release=release)


def store_of(context: PluginContext, param: str | None = None) -> SessionStore:
    """Return where sessions are kept. Raises ``UnsupportedFeatureError`` where they are not."""
    store = context.session_store()
    if store is None:
        message = "This server keeps no sessions: no enabled plugin brings a store. Send whole conversations."
        raise UnsupportedFeatureError(message, param=param)
    return store


def check_id(session_id: str, param: str = "session_id") -> str:
    """Return an id that a session could have. Raises ``SessionNotFoundError`` for any other."""
    if not _ID.fullmatch(session_id):
        raise SessionNotFoundError(session_id[:_MAX_SHOWN_CHARS], param=param)
    return session_id


def _check(asked: Asked) -> None:
    prompt, param = asked.generate.prompt, asked.session.param if asked.session else None
    if not isinstance(prompt, ChatPrompt):
        message = f"{param} is for conversations: ask /v1/chat/completions."
        raise InvalidRequestError(message, param=param)
    if asked.generate.sampling.n != 1:
        message = f"n must be 1 with {param}: a session goes on with one answer, not with {asked.generate.sampling.n}."
        raise InvalidRequestError(message, param="n")
    if prompt.continue_final_message:
        message = f"continue_final_message is not supported with {param}: answers are kept as whole messages."
        raise UnsupportedFeatureError(message, param="continue_final_message")
