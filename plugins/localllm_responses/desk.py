"""What all endpoints of the plugin share: where responses are kept, who is asking, and what is on its way."""

from __future__ import annotations

from typing import Final, NamedTuple, cast

from starlette.requests import Request

from localllm import PluginContext, SessionStore, UnsupportedFeatureError, caller_of

from .book import ResponseBook
from .conversation_book import ConversationBook
from .jobs import BackgroundJobs
from .settings import ResponsesSettings
from .turns import ConversationTurns

_KEY: Final = "desk"
_ENABLE: Final = "enable a plugin that brings a store, such as 'sessions'"


class Shelf(NamedTuple):
    """What one caller keeps."""

    owner: str
    store: SessionStore
    responses: ResponseBook


class Desk:
    """One for each server. Event loop only."""

    def __init__(self, context: PluginContext) -> None:
        self.context = context
        self.settings: ResponsesSettings = context.config
        self.jobs = BackgroundJobs(self.settings.max_background, context.logger)
        self.turns = ConversationTurns()

    def find_shelf(self, request: Request) -> Shelf | None:
        """Return what the caller keeps, None where nothing is kept."""
        store = self.context.session_store()
        if store is None:
            return None
        owner = caller_of(request)
        book = ResponseBook(store, owner, lambda identity: self.jobs.running(owner, identity) is not None)
        return Shelf(owner, store, book)

    def shelf(self, request: Request, *, param: str | None = None) -> Shelf:
        """Return what the caller keeps. Raises ``UnsupportedFeatureError`` where nothing is kept."""
        found = self.find_shelf(request)
        if found is None:
            what = "Nothing is kept here" if param is None else f"{param} can't be used, for nothing is kept here"
            message = f"{what}: {_ENABLE}, or send the whole conversation as input."
            raise UnsupportedFeatureError(message, param=param)
        return found

    def conversations(self, request: Request, *, param: str = "conversation_id") -> ConversationBook:
        """Return the caller's conversations. Raises as :meth:`shelf` does."""
        shelf = self.shelf(request, param=None if param == "conversation_id" else param)
        return ConversationBook(shelf.store, shelf.owner, param=param)


def desk_of(context: PluginContext) -> Desk:
    """Return the one desk of a server: the hooks of the plugin share it."""
    if _KEY not in context.shared:
        context.shared[_KEY] = Desk(context)
    return cast(Desk, context.shared[_KEY])
