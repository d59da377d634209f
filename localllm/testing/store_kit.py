"""What the checks of session stores are made of: owners, turns, and the errors that they expect."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from localllm.contract.errors import LocalLLMError
from localllm.contract.generation import Usage
from localllm.contract.sessions import SessionStore, StoredMessage, Turn
from localllm.testing.sessions import StoreLimits

Check = Callable[[SessionStore, StoreLimits], Awaitable[None]]
_Error = TypeVar("_Error", bound=LocalLLMError)


def new_owner() -> str:
    """Return an owner that nobody has been before."""
    return f"owner-{uuid.uuid4()}"


def turn_of(*texts: str, role: str = "user") -> Turn:
    """Return a turn of messages that say ``texts``, all of one role."""
    return Turn(tuple({"role": role, "content": text} for text in texts))


def exchange(number: int) -> Turn:
    """Return what somebody says, and the answer."""
    said = {"role": "user", "content": f"question {number}"}
    answer = {"role": "assistant", "content": f"answer {number}"}
    return Turn((said, answer), model="m", usage=Usage(10, 2, 3, 1), context_tokens=20 + number)


def texts_of(found: Sequence[StoredMessage]) -> list[str]:
    """Return what the messages say."""
    return [one.message["content"] for one in found]


async def expect(kind: type[_Error], work: Awaitable[object]) -> _Error:
    """Return the error that ``work`` raises."""
    try:
        found = await work
    except kind as error:
        return error
    message = f"{kind.__name__} was not raised; this was returned: {found!r}"
    raise AssertionError(message)
