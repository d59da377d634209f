"""What may stand between an endpoint and a generation: a plugin that changes prompts and looks at answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from localllm.contract.backend import ModelClient
from localllm.contract.generation import FinishReason, GenerateRequest, Usage
from localllm.contract.model import ModelSpec


@dataclass(frozen=True, slots=True)
class SessionWish:
    """The conversation that a request belongs to; ``id`` None begins one. ``param`` is the field that said so."""

    id: str | None = None
    param: str = "session_id"


@dataclass(frozen=True, slots=True)
class Asked:
    """One generation before it begins. ``owner`` is the fingerprint of the caller's API key, "" without keys."""

    request_id: str
    owner: str
    model: ModelSpec
    generate: GenerateRequest
    session: SessionWish | None = None


@dataclass(frozen=True, slots=True)
class AnswerMessage:
    """One choice of a complete answer. ``message`` is as ``ChatPrompt.messages`` has those of the assistant."""

    message: Mapping[str, Any]
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Answered:
    """A complete answer: all its choices, and what it took."""

    choices: tuple[AnswerMessage, ...]
    usage: Usage


class Interception(Protocol):
    """One plugin's part in one generation; all methods are called in the request's own task.

    Whatever it raises is what the caller gets.
    """

    async def prepare(self, generate: GenerateRequest, client: ModelClient) -> GenerateRequest:
        """Return what is to be generated instead, now that the model is there. Called once."""
        ...

    @property
    def fields(self) -> Mapping[str, Any]:
        """What the response carries beside its own fields, plain JSON, once :meth:`prepare` has returned.

        Whoever keeps the conversation that a request names tells ``session_id``; without it the request is refused.
        It may be told before: of several instances of a model, all turns of a conversation then go to the same one.
        """
        ...

    async def after(self, answer: Answered) -> None:
        """Take note of the answer. The caller can't know that it is complete before this returns.

        Not called when the caller left, or when the generation failed.
        """
        ...

    async def leave(self) -> None:
        """Let go of what is held. Called once, last, however it ended."""
        ...


class Interceptor(Protocol):
    """What a plugin registers: asked for its part in each generation, before the model is loaded."""

    async def before(self, asked: Asked) -> Interception | None:
        """Return the part to play in this generation, or None. May refuse the request with a typed error."""
        ...
