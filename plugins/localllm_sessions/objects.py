"""Sessions and messages as clients see them, lists of them, and what a query says of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from localllm import InvalidRequestError, Session, StoredMessage, Usage

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
_MESSAGE_PREFIX: Final = "msg_"
_MAX_DIGITS: Final = 15


@dataclass(frozen=True, slots=True)
class Page:
    """What of a list is asked for: so many entries, behind the one whose id is ``after``."""

    limit: int
    after: str | None


def read_page(query: Mapping[str, str]) -> Page:
    """Return what ``limit`` and ``after`` say. Raises ``InvalidRequestError``."""
    text = query.get("limit", str(DEFAULT_LIMIT))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else 0
    if not 1 <= limit <= MAX_LIMIT:
        message = f"limit must be a number from 1 to {MAX_LIMIT}, not {text[:20]!r}."
        raise InvalidRequestError(message, param="limit")
    return Page(limit, query.get("after"))


def list_object(entries: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return one page as OpenAI's lists are."""
    return {
        "object": "list",
        "data": list(entries),
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": has_more,
    }


def session_object(session: Session) -> dict[str, Any]:
    """Return a session without its messages."""
    return {
        "id": session.id,
        "object": "session",
        "created_at": int(session.created_at),
        "used_at": int(session.used_at),
        "title": session.title,
        "model": session.model,
        "messages": session.n_messages,
        "context_tokens": session.context_tokens,
        "usage": usage_object(session.usage),
        "metadata": dict(session.metadata),
    }


def usage_object(usage: Usage) -> dict[str, int]:
    """Return the token counts of all turns together."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def message_object(stored: StoredMessage) -> dict[str, Any]:
    """Return a message with its place in the session."""
    return {
        "id": f"{_MESSAGE_PREFIX}{stored.index}",
        "object": "session.message",
        "index": stored.index,
        "turn": stored.turn,
        "created_at": int(stored.created_at),
        **stored.message,
    }


def index_behind(after: str | None) -> int:
    """Return the index of the message behind the one with this id. Raises ``InvalidRequestError`` for no such id."""
    if after is None:
        return 0
    digits = after.removeprefix(_MESSAGE_PREFIX)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
        message = f"after must be the id of a message, such as 'msg_7', not {after[:40]!r}."
        raise InvalidRequestError(message, param="after")
    return int(digits) + 1
