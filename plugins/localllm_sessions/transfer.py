"""Sessions as JSON lines: one line about the session, then one for each message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
from starlette.requests import Request

from localllm import (
    InvalidRequestError,
    Session,
    SessionStore,
    StoredMessage,
    Turn,
    UnsupportedFeatureError,
    read_json_object,
)
from localllm.openai import NewSessionRequest, parse_new_session, parse_session_message

from .history import INSTRUCTION_ROLES, REPLACES, Message, replacing_instructions
from .objects import session_object
from .window import MAX_MESSAGES

JSON_LINES: Final = "application/jsonl"
IMPORT_MEDIA: Final = (JSON_LINES, "application/x-ndjson", "application/x-jsonlines", "application/json")
"""A web page can't send any of these to a server of another origin without being asked for permission."""

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
MAX_IMPORTED_MESSAGES: Final = 100_000
_FORMAT: Final = 1
_PAGE: Final = 100
_YIELD_BYTES: Final = 64 * 1024


async def export_lines(store: SessionStore, session: Session) -> AsyncIterator[bytes]:
    """Yield the lines of a session as it was when ``session`` was read: what is said meanwhile is left out."""
    head = session_object(session) | {"object": "session.export", "format": _FORMAT}
    yield orjson.dumps(head) + b"\n"
    async for page in _pages(store, session, session.n_messages):
        lines = [{"turn": one.turn, "created_at": int(one.created_at), "message": one.message} for one in page]
        yield b"".join(orjson.dumps(line) + b"\n" for line in lines)


async def copied_turns(store: SessionStore, session: Session, n_messages: int | None) -> list[Turn]:
    """Return the first messages of a session as turns that cost nothing; None: all, and what was remembered of them."""
    n = session.n_messages if n_messages is None else min(n_messages, session.n_messages)
    turns: list[list[Message]] = []
    last = None
    async for page in _pages(store, session, n):
        for one in page:
            if one.turn != last:
                turns.append([])
                last = one.turn
            turns[-1].append(one.message)
    return _remembering(turns, session.state if n == session.n_messages else None)


async def _pages(store: SessionStore, session: Session, stop: int) -> AsyncIterator[Sequence[StoredMessage]]:
    """Yield a session's first messages. Raises ``SessionNotFoundError`` when it is deleted meanwhile."""
    start = 0
    while start < stop:
        page = await store.messages(session.owner, session.id, start=start, limit=min(_PAGE, stop - start))
        yield page
        start += len(page)


def _remembering(turns: Sequence[Sequence[Message]], state: Mapping[str, Any] | None) -> list[Turn]:
    """Return turns, the last of which brings the session's state: ``state``, or what the messages themselves tell."""
    if state is None:
        instructions = replacing_instructions(turns)
        state = None if instructions is None else {"instructions": instructions}
    made = [Turn(tuple(messages)) for messages in turns]
    return [*made[:-1], replace(made[-1], state=state)] if made and state else made


class Import:
    """Takes in the lines of an export, and has the session in the end.

    Raises ``InvalidRequestError`` for bad ones, and ``UnsupportedFeatureError`` for messages of more than text.
    """

    def __init__(self) -> None:
        self._n_lines = 0
        self._head: NewSessionRequest | None = None
        self._announced: object = None
        self._turns: list[list[Message]] = []
        self._last_turn = 0
        self._n_messages = 0
        self._n_leading = 0  # instructions at the head, which every prompt has

    async def read(self, request: Request) -> None:
        """Take in a request's body as it comes, giving way to others."""
        rest = b""
        n_bytes = 0
        async for piece in request.stream():
            *lines, rest = (rest + piece).split(b"\n")
            self._check_length(rest)
            for line in lines:
                self._take(line)
                n_bytes += len(line) + 1
                if n_bytes > _YIELD_BYTES:
                    n_bytes = 0
                    await asyncio.sleep(0)
        self._take(rest)

    async def create(self, store: SessionStore, owner: str) -> Session:
        """Create the session with all its messages, or nothing."""
        head = self._head
        if head is None:
            message = "The body is empty; send the lines of an export."
            raise InvalidRequestError(message)
        if self._announced not in (None, self._n_messages):
            announced = self._announced if isinstance(self._announced, int) else "no number of"
            message = f"The first line tells of {announced} messages, but {self._n_messages} follow."
            raise InvalidRequestError(message, param="messages")
        return await store.create(
            owner,
            model=head.model,
            title=head.title or "",
            metadata=head.metadata,
            turns=_remembering(self._turns, None),
        )

    def _check_length(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            message = f"Line {self._n_lines + 1} is longer than {MAX_LINE_BYTES} bytes."
            raise InvalidRequestError(message)

    def _take(self, line: bytes) -> None:
        self._check_length(line)
        self._n_lines += 1
        if not line.strip():
            return
        try:
            value = read_json_object(line)
            if self._head is None:
                self._begin(value)
            else:
                self._add(value)
        except (InvalidRequestError, UnsupportedFeatureError) as error:
            message = f"Line {self._n_lines}: {error.message}"
            raise type(error)(message, param=error.param) from None

    def _begin(self, line: Mapping[str, Any]) -> None:
        if line.get("object") != "session.export" or line.get("format") != _FORMAT:
            message = f'the first line must have "object": "session.export" and "format": {_FORMAT}.'
            raise InvalidRequestError(message, param="object")
        self._announced = line.get("messages")
        self._head = parse_new_session({name: line[name] for name in ("title", "model", "metadata") if name in line})

    def _add(self, line: Mapping[str, Any]) -> None:
        turn, message = line.get("turn"), line.get("message")
        if not isinstance(turn, int) or isinstance(turn, bool) or turn < self._last_turn:
            sentence = "turn must be a number, and none may be lower than the one before."
            raise InvalidRequestError(sentence, param="turn")
        if not isinstance(message, dict):
            sentence = "message must be an object with role and content."
            raise InvalidRequestError(sentence, param="message")
        self._n_messages += 1
        if self._n_messages > MAX_IMPORTED_MESSAGES:
            sentence = f"a session may have at most {MAX_IMPORTED_MESSAGES} messages when it is imported."
            raise InvalidRequestError(sentence)
        plain = parse_session_message(message)
        if message.get(REPLACES) is True:
            if plain["role"] not in INSTRUCTION_ROLES:
                sentence = f"{REPLACES} is for messages of role system or developer, not {plain['role']}."
                raise InvalidRequestError(sentence, param=REPLACES)
            plain[REPLACES] = True
        self._n_leading += self._n_leading == self._n_messages - 1 and plain["role"] in INSTRUCTION_ROLES
        if self._n_leading > MAX_MESSAGES:
            sentence = f"a session may begin with at most {MAX_MESSAGES} messages of role system or developer."
            raise InvalidRequestError(sentence, param="messages")
        if not self._turns or turn != self._last_turn:
            self._turns.append([])
            self._last_turn = turn
        self._turns[-1].append(plain)
