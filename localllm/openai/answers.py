"""Turns the events of a generation into a whole response or a stream of chunks, in either endpoint's shape."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from localllm.contract.errors import ProtocolError
from localllm.contract.generation import (
    CallDelta,
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

_CALL_ID_BYTES: Final = 12


@dataclass(slots=True)
class Call:
    """One tool call as far as it is written."""

    name: str
    arguments: list[str] = field(default_factory=list)
    id: str = ""

    @property
    def argument_text(self) -> str:
        """All arguments as one JSON object. A cut one is cut here too."""
        return "".join(self.arguments)


@dataclass(slots=True)
class Answer:
    """One choice as far as it is written. ``stop`` is the stop string that ended it, if one did.

    ``logprobs`` are those of the text.
    """

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: FinishReason | None = None
    stop: str | None = None

    def add(self, event: Chunk | CallDelta | ChoiceFinished) -> None:
        """Go on with one piece."""
        match event:
            case Chunk(region="reasoning"):
                self.reasoning.append(event.text)
            case Chunk():
                self.text.append(event.text)
                self.logprobs.extend(event.logprobs)
            case CallDelta():
                if event.name is not None:
                    self.calls.append(Call(event.name, id=event.id or new_call_id()))
                self.calls[event.index].arguments.append(event.arguments)
            case ChoiceFinished():
                self.reason = event.reason
                self.stop = event.stop

    @property
    def ended_by_model(self) -> bool:
        """Whether the model itself ended it, by a token that is no part of the text."""
        return self.reason == "stop" and self.stop is None


def new_call_id() -> str:
    """Return the id of a call that has none yet."""
    return f"call_{secrets.token_hex(_CALL_ID_BYTES)}"


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

    def delta(self, chunk: Chunk) -> Sequence[dict[str, Any]]:
        """Return the choices that carry a piece of text: one, or none for a thought that is not shown."""
        ...

    def call(self, delta: CallDelta) -> Sequence[dict[str, Any]]:
        """Return the choices that carry a piece of a tool call."""
        ...

    def finish(self, event: ChoiceFinished) -> Sequence[dict[str, Any]]:
        """Return the choices that end an answer; the last of them says why."""
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
    noted: dict[str, Any] = {}
    async with aclosing(events):
        async for event in events:
            match event:
                case Started():
                    noted = _noted(event)
                case PromptLogprobs():
                    shape.prompt(event)
                case Chunk() | CallDelta() | ChoiceFinished():
                    answers[event.choice].add(event)
                case Finished():
                    if select is not None:
                        answers = select(answers)
                    choices = [shape.choice(index, answer) for index, answer in enumerate(answers)]
                    return shape.whole(choices) | {
                        "usage": usage_fields(event.usage),
                        "timings": timings_fields(event.usage, event.timings),
                        **noted,
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
    ``timings_per_token`` every piece of text, thought or call carries how many tokens were written in how many
    milliseconds so far. The first chunk carries the generation's ``warnings`` and ``fields``, if it has any.
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
            if isinstance(event, Finished):
                break
            if isinstance(event, Started):
                unsent |= _noted(event)
            chunks = [shape.chunk([choice]) for choice in _choices(shape, event, n_choices)]
            if pace is not None and isinstance(event, Chunk | CallDelta):
                pace.mark(event, chunks)
            if isinstance(event, ChoiceFinished):
                still_open -= 1
                if not still_open:
                    last = chunks.pop()
            for chunk in chunks:
                yield sent(chunk)
        else:
            raise cut_short()
        if last is None:
            raise cut_short()
        timings = {"timings": timings_fields(event.usage, event.timings)}
        if include_usage:
            yield sent(last)
            yield shape.chunk([]) | {"usage": usage_fields(event.usage)} | timings
        else:
            yield sent(last | timings)


class _Pace:
    """Counts the tokens of a running answer and the time since the first of them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first_at: float | None = None
        self._n_tokens = 0

    def mark(self, piece: Chunk | CallDelta, chunks: Sequence[dict[str, Any]]) -> None:
        """Count a piece, whether it is shown or not, and note on its chunks how far the answer is."""
        self._n_tokens += piece.tokens
        if self._first_at is not None and not chunks:
            return
        now = self._clock()
        if self._first_at is None:
            self._first_at = now
        for chunk in chunks:
            chunk["timings"] = predicted_fields(self._n_tokens, 1000.0 * (now - self._first_at))


def _noted(started: Started) -> dict[str, Any]:
    """Return what a response carries beside its own fields."""
    return {**started.fields, **({"warnings": list(started.warnings)} if started.warnings else {})}


def _choices(shape: Shape, event: GenerateEvent, n_choices: int) -> Sequence[dict[str, Any]]:
    """Return the choices of a stream that tell of one event."""
    match event:
        case Started():
            openings = [shape.opening(index) for index in range(n_choices)]
            return [choice for choice in openings if choice is not None]
        case PromptLogprobs():
            return shape.prompt(event)
        case Chunk() if event.text or event.logprobs:
            return shape.delta(event)
        case CallDelta():
            return shape.call(event)
        case ChoiceFinished():
            return shape.finish(event)
    return ()


def cut_short() -> ProtocolError:
    """Return the error for events that end without :class:`Finished`."""
    return ProtocolError(
        "The model's worker ended an answer without saying that it is complete. Send the request again."
    )
