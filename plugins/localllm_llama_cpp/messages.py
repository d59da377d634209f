"""Rewrites conversations for templates that insist on one system message, on alternation, or on neither."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = dict[str, Any]

_REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")  # families name the same thing differently


def prepare(messages: Sequence[Mapping[str, Any]], *, knows_developer: bool) -> list[Message]:
    """Return copies in which every template finds what it looks for, whatever its family calls it."""
    return [_prepared(message, knows_developer=knows_developer) for message in messages]


def rewrites(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Yield the conversation as given, then in forms that ever stricter templates accept, each saying the same.

    Second: system messages joined into one at the start, neighbours of the same role joined. Third: the system
    message's text put before the first user message.
    """
    yield list(messages)
    system = [message for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    joined = _join_neighbours([*system, *others])
    yield joined
    if system:
        yield _join_neighbours(_fold_system(joined[0], joined[1:]))


def add_to_system(messages: Sequence[Message], text: str) -> list[Message]:
    """Return the conversation with ``text`` at the end of the system message that it begins with, or gets."""
    if messages and messages[0]["role"] == "system":
        return [{**messages[0], "content": _join(messages[0]["content"], text)}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _prepared(message: Mapping[str, Any], *, knows_developer: bool) -> Message:
    copy = {key: value for key, value in message.items() if key not in _REASONING_NAMES}
    copy["content"] = copy.get("content") or ""  # a template that writes None would write it out
    if copy["role"] == "developer" and not knows_developer:
        copy["role"] = "system"
    reasoning = next((message[name] for name in _REASONING_NAMES if message.get(name)), None)
    if reasoning is not None:
        copy.update(dict.fromkeys(_REASONING_NAMES, reasoning))
    return copy


_PLAIN = frozenset({"role", "content", "name"})  # what else a message carries belongs to it alone


def _join_neighbours(messages: Sequence[Message]) -> list[Message]:
    """Join neighbours of one role. Their names are dropped: few templates show any."""
    joined: list[Message] = []
    for message in messages:
        if joined and _PLAIN.issuperset((*message, *joined[-1])) and joined[-1]["role"] == message["role"]:
            joined[-1] = {"role": message["role"], "content": _join(joined[-1]["content"], message["content"])}
        else:
            joined.append(dict(message))
    return joined


def _fold_system(system: Message, others: Sequence[Message]) -> list[Message]:
    folded = [dict(message) for message in others]
    for message in folded:
        if message["role"] == "user":
            message["content"] = _join(system["content"], message["content"])
            return folded
    return [{"role": "user", "content": system["content"]}, *folded]


def _join(first: str | None, second: str | None) -> str:
    return "\n\n".join(text for text in (first, second) if text)
