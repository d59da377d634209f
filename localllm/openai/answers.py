"""Turns the events of a generation into a whole response or a stream of chunks, in either endpoint's shape."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from localllm.contract.errors import ProtocolError
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Finished,
    FinishReason,
    GenerateEvent,
    PromptLogprobs,
    Started,
    TokenLogprob,
)
from localllm.openai.reply import predicted_fields, timings_fields, usage_fields

Events = AsyncGenerator[GenerateEvent, None]


@dataclass(slots=True)
class Answer:
    """One choice as far as it is written. ``stop`` is the stop string that ended it, if one did."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: FinishReason | None = None
    stop: str | None = None

    @property
    def ended_by_model(self) -> bool:
        """Whether the model itself ended it, by a token that is no part of the text."""
        return self.reason == "stop" and self.stop is None


class Shape(Protocol):
    """How one endpoint words its answers. An instance belongs to one response and may keep state."""

    def whole(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the body of a response without ``usage``."""
        ...

    def prompt(self, event: PromptLogprobs) -> Sequence[dict[str, Any]]:
        """Take in log-probabilities of a prompt; return the choices that show them at once in a stream, if any do."""
        ...

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """Return one complete choice of a whole response."""
        ...

    def opening(self, index: int) -> dict[str, Any] | None:
        """Return the choice that a stream begins with, if this endpoint has one."""
        ...

    def delta(self, chunk: Chunk) -> dict[str, Any]:
        """Return the choice that carries a piece of text."""
        ...

    def finish(self, event: ChoiceFinished) -> dict[str, Any]:
        """Return the choice that ends an answer."""
        ...

    def chunk(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return one chunk of a stream."""
        ...


async def whole_response(
    shape: Shape,
    events: Events,
    *,
    n_choices: int,
    select: Callable[[Sequence[Answer]], Sequence[Answer]] | None = None,
) -> dict[str, Any]:
    """Read the events to their end and return the response. Raises what the generation raises.

    ``select`` chooses the answers that are returned, of the ``n_choices`` that are written.
    """
    answers: Sequence[Answer] = [Answer() for _ in range(n_choices)]
    warnings: tuple[str, ...] = ()
    async with aclosing(events):
        async for event in events:
            match event:
                case Started():
                    warnings = event.warnings
                case PromptLogprobs():
                    shape.prompt(event)
                case Chunk():
                    answers[event.choice].text.append(event.text)
                    answers[event.choice].logprobs.extend(event.logprobs)
                case ChoiceFinished():
                    answers[event.choice].reason = event.reason
                    answers[event.choice].stop = event.stop
                case Finished():
                    if select is not None:
                        answers = select(answers)
                    choices = [shape.choice(index, answer) for index, answer in enumerate(answers)]
                    return shape.whole(choices) | {
                        "usage": usage_fields(event.usage),
                        "timings": timings_fields(event.usage, event.timings),
                        **_noted(warnings),
                    }
    raise cut_short()


async def response_chunks(
    shape: Shape,
    events: Events,
    *,
    n_choices: int,
    include_usage: bool = False,
    timings_per_token: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the chunks of a stream; closing it closes ``events``.

    The last finish chunk waits for :class:`Finished`, because ``timings`` stand on the stream's last chunk. With
    ``timings_per_token`` every piece of text carries how many tokens were written in how many milliseconds so far. The
    first chunk carries the generation's ``warnings``, if it has any.
    """
    pace = _Pace(clock) if timings_per_token else None
    still_open = n_choices
    last: dict[str, Any] | None = None
    unsent: dict[str, Any] = {}

    def sent(chunk: dict[str, Any]) -> dict[str, Any]:
        if unsent:
            chunk |= unsent
            unsent.clear()
        return chunk

    async with aclosing(events):
        async for event in events:
            match event:
                case Started() | PromptLogprobs():
                    if isinstance(event, Started):
                        unsent |= _noted(event.warnings)
                    for choice in _before_text(shape, event, n_choices):
                        yield sent(shape.chunk([choice]))
                case Chunk() if event.text or event.logprobs:
                    chunk = shape.chunk([shape.delta(event)])
                    yield sent(chunk if pace is None else chunk | pace.after(event))
                case ChoiceFinished():
                    still_open -= 1
                    finish = shape.chunk([shape.finish(event)])
                    if still_open:
                        yield sent(finish)
                    else:
                        last = finish
                case Finished() if last is not None:
                    timings = {"timings": timings_fields(event.usage, event.timings)}
                    if include_usage:
                        yield sent(last)
                        yield shape.chunk([]) | {"usage": usage_fields(event.usage)} | timings
                    else:
                        yield sent(last | timings)
                    return
    raise cut_short()


class _Pace:
    """Counts the tokens of a running answer and the time since the first of them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first_at: float | None = None
        self._n_tokens = 0

    def after(self, chunk: Chunk) -> dict[str, Any]:
        now = self._clock()
        if self._first_at is None:
            self._first_at = now
        self._n_tokens += chunk.tokens
        return {"timings": predicted_fields(self._n_tokens, 1000.0 * (now - self._first_at))}


def _noted(warnings: Sequence[str]) -> dict[str, Any]:
    return {"warnings": list(warnings)} if warnings else {}


def _before_text(shape: Shape, event: Started | PromptLogprobs, n_choices: int) -> Sequence[dict[str, Any]]:
    """Return the choices of a stream that come before any text of the model's."""
    if isinstance(event, PromptLogprobs):
        return shape.prompt(event)
    openings = [shape.opening(index) for index in range(n_choices)]
    return [choice for choice in openings if choice is not None]


def cut_short() -> ProtocolError:
    """Return the error for events that end without :class:`Finished`."""
    return ProtocolError(
        "The model's worker ended an answer without saying that it is complete. Send the request again."
    )
