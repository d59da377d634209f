"""What of a conversation fits the model's context: the oldest rounds are left out, many at a time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from localllm import StoredMessage

_ANSWER_SHARE: Final = 4  # of the context, left for an answer whose length nobody limited: one in so many
_KEPT_SHARE: Final = 0.75
"""Of what fits, what is kept when something must go: the next turns then find the same beginning, and its KV cells."""

_BYTES_PER_TOKEN: Final = 16  # more than any text that we met has on the average
_MIN_READ_BYTES: Final = 64 * 1024

MAX_MESSAGES: Final = 2048
"""As many as a request may bring: templates take seconds for more."""


@dataclass(frozen=True, slots=True)
class Round:
    """Turns that stand or fall together: results of tools go with the calls that they answer."""

    messages: tuple[StoredMessage, ...]

    @property
    def start(self) -> int:
        """The index of its first message."""
        return self.messages[0].index


def rounds_of(messages: Sequence[StoredMessage]) -> list[Round]:
    """Return the messages as rounds. Results at the head, whose calls are out of sight, are left out."""
    rounds: list[list[StoredMessage]] = []
    turn = None
    for one in messages:
        begins = one.turn != turn and one.message["role"] != "tool"
        if begins:
            rounds.append([])
        turn = one.turn
        if rounds:
            rounds[-1].append(one)
    return [Round(tuple(one)) for one in rounds]


def read_bytes(context_length: int) -> int:
    """Return how many bytes of a session are worth reading: more can't fit the context."""
    return max(_MIN_READ_BYTES, context_length * _BYTES_PER_TOKEN)


def count_unreachable(rounds: Sequence[Round], max_bytes: int, *, max_messages: int = MAX_MESSAGES) -> int:
    """Return how many of the oldest rounds go without a look at their tokens: there are too many messages, or bytes.

    None go where all of it is within the limits; otherwise so many that at most three quarters of both are left.
    """
    n_messages = n_bytes = n_kept = 0
    for one in reversed(rounds):
        n_messages += len(one.messages)
        n_bytes += sum(len(orjson.dumps(stored.message)) for stored in one.messages)
        if n_messages > max_messages or n_bytes > max_bytes:
            return len(rounds) - n_kept
        if n_messages <= max_messages * _KEPT_SHARE and n_bytes <= max_bytes * _KEPT_SHARE:
            n_kept += 1
    return 0


def prompt_limit(context_length: int, max_tokens: int | None) -> int:
    """Return how many tokens a prompt may have so that there is room for the answer, up to half of the context."""
    room = context_length // _ANSWER_SHARE if max_tokens is None else max_tokens
    return context_length - max(1, min(room, context_length // 2))


async def count_dropped(n_rounds: int, limit: int, count: Callable[[int], Awaitable[int]]) -> int:
    """Return how many of the oldest rounds have to go so that the prompt fits into ``limit`` tokens, if it can.

    ``count(n)`` returns the tokens of a prompt without the first n rounds. None go where all fit; otherwise so many
    that three quarters of the limit are left. Asks for a number of counts that is logarithmic in the rounds.
    """
    if n_rounds == 0 or await count(0) <= limit:
        return 0
    kept_limit = int(limit * _KEPT_SHARE)
    low, high = 1, n_rounds
    while low < high:
        middle = (low + high) // 2
        fits = await count(middle) <= kept_limit
        low, high = (low, middle) if fits else (middle + 1, high)
    return low


def first_at_or_after(rounds: Sequence[Round], start: int) -> int:
    """Return the number of rounds that begin before the message with index ``start``."""
    return bisect_left(rounds, start, key=lambda one: one.start)
