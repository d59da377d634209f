"""A complete session store in memory: the model that other stores are held against, and a double for tests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from localllm.contract.sessions import (
    Record,
    Session,
    SessionChange,
    SessionConflictError,
    SessionNotFoundError,
    SessionQuotaExceededError,
    StoredMessage,
    Turn,
    new_session_id,
)

LEADING_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What one owner may keep at most; None: as much as there is room for. Bytes are those of JSON."""

    max_sessions_per_owner: int | None = None
    max_bytes_per_owner: int | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    """A message as it is kept: as text, so that nobody can change it from outside."""

    turn: int
    created_at: float
    text: str

    @property
    def n_bytes(self) -> int:
        return len(self.text.encode("utf-8", "surrogatepass"))

    def read(self, index: int) -> StoredMessage:
        return StoredMessage(index, self.turn, self.created_at, json.loads(self.text))


@dataclass(slots=True)
class _Conversation:
    session: Session
    last_use: int
    messages: list[_Kept] = field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        own = sum(json_bytes(value) for value in (self.session.title, self.session.metadata, self.session.state))
        return own + sum(message.n_bytes for message in self.messages)


def to_json(value: Any) -> str:  # noqa: ANN401
    """Return the compact JSON by which stores count bytes. Raises ``ValueError`` for NaN and infinity."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_bytes(value: Any) -> int:  # noqa: ANN401
    """Return how many bytes of JSON a value takes."""
    return len(to_json(value).encode("utf-8", "surrogatepass"))


class MemoryStore:
    """A :class:`~localllm.contract.sessions.SessionStore` that forgets everything when the process ends.

    ``clock`` gives seconds since 1970. Nothing is awaited inside, so that every method is atomic.
    """

    def __init__(self, limits: StoreLimits | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits or StoreLimits()
        self._clock = clock
        self._n_uses = 0
        self._sessions: dict[tuple[str, str], _Conversation] = {}
        self._records: dict[tuple[str, str, str], tuple[Record, str]] = {}

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
        """Begin a session."""
        if any(session_id == kept for _, kept in self._sessions):
            message = f"There is a session {session_id!r} already."
            raise SessionConflictError(message)
        if self._limits.max_sessions_per_owner is not None:
            n_kept = sum(key[0] == owner for key in self._sessions)
            if n_kept >= self._limits.max_sessions_per_owner:
                message = f"This API key has {n_kept} sessions, as many as it may; delete some that are over."
                raise SessionQuotaExceededError(message)
        now = self._clock()
        session = Session(session_id or new_session_id(), owner, now, now, title, model, metadata=_copy(metadata or {}))
        conversation = _Conversation(session, self._use())
        for turn in turns:
            self._add(conversation, turn, now)
        self._check_bytes(owner, conversation.n_bytes)
        self._sessions[owner, session.id] = conversation
        return conversation.session

    async def get(self, owner: str, session_id: str) -> Session:
        """Return a session."""
        return self._find(owner, session_id).session

    async def list(self, owner: str, *, limit: int, after: str | None = None) -> Sequence[Session]:
        """Return the sessions that were used last."""
        last_use = self._n_uses + 1 if after is None else self._find(owner, after).last_use
        mine = [one for key, one in self._sessions.items() if key[0] == owner and one.last_use < last_use]
        return [one.session for one in sorted(mine, key=lambda one: -one.last_use)[:limit]]

    async def change(self, owner: str, session_id: str, change: SessionChange) -> Session:
        """Change title and metadata."""
        conversation = self._find(owner, session_id)
        before = conversation.session
        after = replace(
            before,
            title=before.title if change.title is None else change.title,
            metadata=before.metadata if change.metadata is None else _copy(change.metadata),
        )
        self._check_bytes(owner, _Conversation(after, 0).n_bytes - _Conversation(before, 0).n_bytes)
        conversation.session = after
        return after

    async def delete(self, owner: str, session_id: str) -> None:
        """Forget a session."""
        self._find(owner, session_id)
        del self._sessions[owner, session_id]

    async def messages(self, owner: str, session_id: str, *, limit: int, start: int = 0) -> Sequence[StoredMessage]:
        """Return messages in order."""
        kept = self._find(owner, session_id).messages
        return [message.read(start + index) for index, message in enumerate(kept[start : start + limit])]

    async def recent(
        self, owner: str, session_id: str, *, max_bytes: int, max_messages: int | None = None
    ) -> Sequence[StoredMessage]:
        """Return the last whole turns that fit, behind the messages of the system that the session begins with."""
        all_messages = self._find(owner, session_id).messages
        found = [message.read(index) for index, message in enumerate(all_messages)]
        n_leading = next((one.index for one in found if one.message.get("role") not in LEADING_ROLES), len(found))
        first, taken = len(found), 0
        for turn in sorted({message.turn for message in found}, reverse=True):
            taken += sum(message.n_bytes for message in all_messages if message.turn == turn)
            begin = next(one.index for one in found if one.turn == turn)
            is_many = max_messages is not None and len(found) - begin > max_messages
            if (taken > max_bytes or is_many) and first < len(found):
                break
            first = begin
        return [one for one in found if one.index >= first or one.index < n_leading]

    async def append(self, owner: str, session_id: str, turn: Turn, *, after: int) -> Session:
        """Append one turn behind the first ``after`` messages."""
        conversation = self._find(owner, session_id)
        if after != conversation.session.n_messages:
            message = (
                f"The session has {conversation.session.n_messages} messages, not {after}: it went on in the "
                "meantime. Read what was added, and send the request again."
            )
            raise SessionConflictError(message)
        changed = _Conversation(conversation.session, conversation.last_use, list(conversation.messages))
        self._add(changed, turn, self._clock())
        self._check_bytes(owner, changed.n_bytes - conversation.n_bytes)
        changed.last_use = self._use()
        self._sessions[owner, session_id] = changed
        return changed.session

    async def put_records(self, owner: str, records: Sequence[Record]) -> None:
        """Keep records, all or none."""
        changed = dict(self._records)
        for record in records:
            changed[owner, record.kind, record.id] = (replace(record, body={}), to_json(record.body))
        self._check_bytes(owner, _record_bytes(owner, changed) - _record_bytes(owner, self._records))
        self._records = changed

    async def get_record(self, owner: str, kind: str, record_id: str) -> Record | None:
        """Return a record, or None."""
        found = self._records.get((owner, kind, record_id))
        return None if found is None else _read_record(found)

    async def list_records(
        self, owner: str, kind: str, *, group: str, limit: int, after: int | None = None, newest_first: bool = False
    ) -> Sequence[Record]:
        """Return a group's records in the order of their positions, and of their ids where those are the same."""
        mine = [one for key, one in self._records.items() if key[:2] == (owner, kind) and one[0].group == group]
        if after is not None:
            mine = [one for one in mine if (one[0].position < after if newest_first else one[0].position > after)]
        mine.sort(key=lambda one: (one[0].position, one[0].id), reverse=newest_first)
        return [_read_record(one) for one in mine[:limit]]

    async def delete_record(self, owner: str, kind: str, record_id: str) -> bool:
        """Forget a record and those whose group it is."""
        if (owner, kind, record_id) not in self._records:
            return False
        members = (key for key, one in self._records.items() if key[0] == owner and one[0].group == record_id)
        for key in {(owner, kind, record_id), *(members if record_id else ())}:
            del self._records[key]
        return True

    def _find(self, owner: str, session_id: str) -> _Conversation:
        try:
            return self._sessions[owner, session_id]
        except KeyError:
            raise SessionNotFoundError(session_id) from None

    def _use(self) -> int:
        self._n_uses += 1
        return self._n_uses

    def _add(self, conversation: _Conversation, turn: Turn, now: float) -> None:
        number = conversation.messages[-1].turn + 1 if conversation.messages else 0
        conversation.messages += [_Kept(number, now, to_json(message)) for message in turn.messages]
        before = conversation.session
        conversation.session = replace(
            before,
            used_at=now,
            title=before.title or turn.title,
            model=before.model if turn.model is None else turn.model,
            n_messages=len(conversation.messages),
            usage=before.usage + turn.usage,
            context_tokens=turn.context_tokens or before.context_tokens,
            state=before.state if turn.state is None else _copy(turn.state),
        )

    def _check_bytes(self, owner: str, n_more: int) -> None:
        limit = self._limits.max_bytes_per_owner
        if limit is None or n_more <= 0:
            return
        kept = sum(one.n_bytes for key, one in self._sessions.items() if key[0] == owner)
        kept += _record_bytes(owner, self._records)
        if kept + n_more > limit:
            message = (
                f"This API key keeps {kept} bytes of conversations, {n_more} more are asked for, and it may keep "
                f"{limit}; delete some that are over."
            )
            raise SessionQuotaExceededError(message)


def _copy(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    copied: dict[str, Any] = json.loads(to_json(metadata))
    return copied


def _read_record(found: tuple[Record, str]) -> Record:
    record, text = found
    return replace(record, body=json.loads(text))


def _record_bytes(owner: str, records: Mapping[tuple[str, str, str], tuple[Record, str]]) -> int:
    return sum(len(text.encode("utf-8", "surrogatepass")) for key, (_, text) in records.items() if key[0] == owner)
