"""What of a request is new to a session, whether the client sent only that or the whole conversation again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from localllm import SessionConflictError

Message = Mapping[str, Any]

INSTRUCTION_ROLES: Final = ("system", "developer")
REPLACES: Final = "replaces"
"""Marks instructions of a later turn that count instead of all before; models never see the mark."""

_Key = tuple[str, str, tuple[tuple[str, str], ...]]


def split_instructions(messages: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Return the instructions that the messages begin with, and the others."""
    n = next((index for index, one in enumerate(messages) if one["role"] not in INSTRUCTION_ROLES), len(messages))
    return tuple(messages[:n]), tuple(messages[n:])


def same_instructions(first: Sequence[Message], second: Sequence[Message]) -> bool:
    """Say whether two blocks of instructions say the same."""
    return [_key(one) for one in first] == [_key(one) for one in second]


def says_anything(instructions: Sequence[Message]) -> bool:
    """Say whether there is any text in instructions."""
    return any(one["content"].strip() for one in instructions)


def has_answers(messages: Sequence[Message]) -> bool:
    """Say whether the messages may be more than what is new: what is new seldom holds an answer."""
    return any(one["role"] == "assistant" for one in messages)


def count_known(sent: Sequence[Message], stored: Sequence[Message], *, complete: bool) -> int:
    """Return how many of the first messages that were sent the session has already, as its last ones.

    Neither side has instructions at its head. ``stored`` are the session's last messages, all of them if ``complete``.
    Messages are the same when they say the same: however content was split, however calls are numbered and their
    arguments spelled, with thoughts or without.

    Raises ``SessionConflictError`` when the conversation that was sent is another branch of the session's: it shares
    answers with it, or its beginning, but doesn't go on from the last message.
    """
    if not has_answers(sent):
        return 0
    numbers: dict[_Key, int] = {}
    ours = [numbers.setdefault(_key(one), len(numbers)) for one in stored]
    theirs = [numbers.setdefault(_key(one), len(numbers)) for one in sent]
    for n in range(min(len(theirs), len(ours)), 0, -1):
        if theirs[:n] == ours[-n:]:
            return n
    answers = {number for number, one in zip(ours, stored, strict=True) if one["role"] == "assistant"}
    if answers.intersection(theirs) or (complete and ours and theirs[0] == ours[0]):
        raise _branched(theirs, ours)
    return 0


def link_results(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with results of tools that name the call and the function that they answer.

    A result whose id no call has answers the first call of the last message with calls that has no result yet.
    """
    names: dict[str, str] = {}
    unanswered: dict[str, None] = {}
    linked: list[Message] = []
    for message in messages:
        if message.get("tool_calls"):
            calls = {call["id"]: call["function"]["name"] for call in message["tool_calls"]}
            names |= calls
            unanswered = dict.fromkeys(calls)
        if message["role"] == "tool":
            call_id = message["tool_call_id"]
            if call_id not in names and unanswered:
                call_id = next(iter(unanswered))
            unanswered.pop(call_id, None)
            name = message.get("name") or names.get(call_id)
            message = {**message, "tool_call_id": call_id} | ({"name": name} if name else {})
        linked.append(message)
    return tuple(linked)


def without_marks(message: Message) -> Message:
    """Return a stored message as models see it."""
    return {name: value for name, value in message.items() if name != REPLACES} if REPLACES in message else message


def split_turns(messages: Sequence[Message]) -> list[tuple[Message, ...]]:
    """Return a conversation as its turns, each of which begins with what the user said behind an answer."""
    turns: list[list[Message]] = []
    for message in messages:
        begins = message["role"] not in ("assistant", "tool") and turns and turns[-1][-1]["role"] == "assistant"
        if begins or not turns:
            turns.append([])
        turns[-1].append(message)
    return [tuple(turn) for turn in turns]


def replacing_instructions(turns: Sequence[Sequence[Message]]) -> list[Message] | None:
    """Return the instructions that replaced those at the head of a conversation last; None where none did."""
    for messages in reversed(turns):
        if messages and messages[0].get(REPLACES):
            head, _ = split_instructions(messages)
            return [without_marks(one) for one in head]
    return None


def _key(message: Message) -> _Key:
    role = "system" if message["role"] == "developer" else message["role"]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return role, message["content"].strip(), tuple((call["name"], _spelled(call["arguments"])) for call in calls)


def _spelled(arguments: str) -> str:
    """Return arguments in one spelling, those that are no JSON as they are. None at all are an empty object."""
    try:
        return json.dumps(json.loads(arguments or "{}"), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


def _branched(theirs: Sequence[int], ours: Sequence[int]) -> SessionConflictError:
    n_same = next(
        (n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours))
    )
    message = (
        "The messages don't go on from where the session is, but share a part with it: an earlier message was changed "
        "or left out, or an answer is to be written again. Send only what is new, or begin another session with "
        "POST /v1/sessions and copy_of."
    )
    return SessionConflictError(message, param="messages", detail={"n_same": n_same})
