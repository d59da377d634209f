"""Conversations that outlive a request: what is kept of them, and what a store that keeps them must do."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from localllm.contract.errors import LocalLLMError
from localllm.contract.generation import Usage

NO_USAGE = Usage(0, 0)


class SessionNotFoundError(LocalLLMError):
    """The caller has no session with this id: there is none, it has expired, or it is somebody else's."""

    code = "session_not_found"

    def __init__(self, session_id: str, *, param: str | None = "session_id") -> None:
        message = f"There is no session {session_id!r}. GET /v1/sessions lists those that this API key has."
        super().__init__(message, param=param)


class SessionConflictError(LocalLLMError):
    """The session went on in the meantime, so that what was to be appended no longer follows its last message."""

    code = "session_conflict"


class SessionQuotaExceededError(LocalLLMError):
    """The caller keeps as much as one API key may."""

    code = "session_quota_exceeded"


class SessionStorageFullError(LocalLLMError):
    """Nothing can be written because the disk, or what the store may take of it, is full."""

    code = "session_storage_full"


class SessionStoreUnavailableError(LocalLLMError):
    """The store can't be read or written just now: locked, gone, read-only, broken. ``retry_after_seconds`` is told."""

    code = "session_store_unavailable"

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message, detail={"retry_after_seconds": retry_after_seconds})


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation of one owner (an API key's fingerprint, "" where there are no keys).

    ``created_at`` and ``used_at`` are seconds since 1970. ``usage`` sums all turns; ``context_tokens`` is what the
    conversation took of the model's context after its last turn, 0 where that is not known. ``metadata`` is the
    caller's own, plain JSON; ``state`` is what those who append turns remember beside them, and no caller sees it.
    """

    id: str
    owner: str
    created_at: float
    used_at: float
    title: str = ""
    model: str | None = None
    n_messages: int = 0
    usage: Usage = NO_USAGE
    context_tokens: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)


def new_session_id() -> str:
    """Return an id that nobody can guess, for a session that is to be created."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message, as ``ChatPrompt.messages`` has them; ``index`` counts from 0.

    ``turn`` counts the turns that messages were appended in, from 0: a turn is kept, or left out, as a whole.
    """

    index: int
    turn: int
    created_at: float
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one exchange adds to a session: what the caller said, and the answer. Appended whole or not at all.

    ``context_tokens`` is what the whole conversation takes of the context now; 0 keeps what the session has.
    ``title`` is for a session that has none then; it never replaces what somebody has called it.
    ``state`` (plain JSON of a few KB) replaces the session's; None keeps it.
    """

    messages: tuple[Mapping[str, Any], ...]
    model: str | None = None
    usage: Usage = NO_USAGE
    context_tokens: int = 0
    state: Mapping[str, Any] | None = None
    title: str = ""


@dataclass(frozen=True, slots=True)
class SessionChange:
    """What a caller may change of a session; None leaves it."""

    title: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A piece of plain JSON that an endpoint keeps for an owner: a response, a conversation, an item of one.

    Records of one ``group`` (the id of what they belong to, or "") are listed in the order of their ``position``.
    """

    kind: str
    id: str
    body: Mapping[str, Any]
    created_at: float
    group: str = ""
    position: int = 0


class SessionStore(Protocol):
    """Keeps sessions and records. All methods are called on the event loop and never block it.

    Everything belongs to an owner and is found with that owner only; somebody else's looks exactly like nothing.
    What a method has returned from survives the process and, as far as the store says so, power loss; what raised has
    changed nothing. Lists are bounded by ``limit``. Besides what is named, all raise
    ``SessionStoreUnavailableError``, and those that write ``SessionStorageFullError``.
    """

    async def create(
        self,
        owner: str,
        *,
        model: str | None = None,
        title: str = "",
        metadata: Mapping[str, Any] | None = None,
        turns: Sequence[Turn] = (),
        session_id: str | None = None,
    ) -> Session:
        """Begin a session, with what was said before if any was. Its id is a new one, or what the server made up.

        ``session_id`` comes from :func:`new_session_id`, for those who must tell the id before anything is kept.
        Raises ``SessionQuotaExceededError``, and ``SessionConflictError`` when anybody has a session of this id.
        """
        ...

    async def get(self, owner: str, session_id: str) -> Session:
        """Return a session. Raises ``SessionNotFoundError``."""
        ...

    async def list(self, owner: str, *, limit: int, after: str | None = None) -> Sequence[Session]:
        """Return the sessions that were used last, from the one behind ``after`` on.

        Raises ``SessionNotFoundError`` when ``after`` is no session of the owner's.
        """
        ...

    async def change(self, owner: str, session_id: str, change: SessionChange) -> Session:
        """Change what the caller may. Raises ``SessionNotFoundError``."""
        ...

    async def delete(self, owner: str, session_id: str) -> None:
        """Forget a session with all its messages. Raises ``SessionNotFoundError``."""
        ...

    async def messages(self, owner: str, session_id: str, *, limit: int, start: int = 0) -> Sequence[StoredMessage]:
        """Return messages in order, from the one with index ``start`` on. Raises ``SessionNotFoundError``."""
        ...

    async def recent(
        self, owner: str, session_id: str, *, max_bytes: int, max_messages: int | None = None
    ) -> Sequence[StoredMessage]:
        """Return the last whole turns, at least one, whose messages take at most so many bytes of JSON, in order.

        Nor are they more than ``max_messages``; None: as many as there are.
        Before them come the messages of role system or developer that the session begins with, whatever they take.
        Reads no more than that of a session of any length. Raises ``SessionNotFoundError``.
        """
        ...

    async def append(self, owner: str, session_id: str, turn: Turn, *, after: int) -> Session:
        """Append one turn behind the first ``after`` messages, durably, and return the session as it is now.

        Raises ``SessionNotFoundError``, ``SessionQuotaExceededError``, and ``SessionConflictError`` when the session
        has another number of messages.
        """
        ...

    async def put_records(self, owner: str, records: Sequence[Record]) -> None:
        """Keep records, all or none; one of the same kind and id is replaced. Raises ``SessionQuotaExceededError``."""
        ...

    async def get_record(self, owner: str, kind: str, record_id: str) -> Record | None:
        """Return a record, or None."""
        ...

    async def list_records(
        self, owner: str, kind: str, *, group: str, limit: int, after: int | None = None, newest_first: bool = False
    ) -> Sequence[Record]:
        """Return a group's records in the order of their positions, from the one behind position ``after`` on."""
        ...

    async def delete_record(self, owner: str, kind: str, record_id: str) -> bool:
        """Forget a record, and all records whose group it is; return whether there was one."""
        ...
