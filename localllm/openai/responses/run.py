"""One response on its way: the generation's events become those of the stream, and the body in its states."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from localllm.contract.errors import LocalLLMError
from localllm.contract.generation import CallDelta, ChoiceFinished, Chunk, Finished, GenerateEvent, Started
from localllm.openai.answers import cut_short
from localllm.openai.responses.body import Body, ResponseHead, Status
from localllm.openai.responses.output import Event, OutputWriter

Keep = Callable[[Body], Awaitable[None]]


class ResponseRun:
    """Words one generation as a response. Use :meth:`events` once, to its end; ``body`` is the response as it is now.

    ``keep`` is awaited with the finished body before the event that tells of it; what it raises is raised. ``clock``
    gives seconds since 1970. ``warnings`` stand in the body. ``is_ending`` says that ``keep`` has been asked: who stops
    it now can't tell whether the response is kept.
    """

    def __init__(
        self,
        head: ResponseHead,
        keep: Keep,
        *,
        warnings: tuple[str, ...] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.head = head
        self.status: Status = "queued" if head.request.background else "in_progress"
        self.has_started = False
        self.is_ending = False
        self._keep = keep
        self._warnings = warnings
        self._fields: dict[str, Any] = {}
        self._clock = clock
        self._n_events = 0
        self._final: Body | None = None
        self._writer = OutputWriter(
            head.id,
            shows_reasoning=head.request.shows_reasoning,
            as_summary=head.request.reasoning.wants_summary,
            shows_logprobs=head.request.shows_logprobs,
        )

    @property
    def body(self) -> Body:
        """The response as it is now."""
        if self._final is not None:
            return self._final
        output = [] if self.status == "queued" else self._writer.items()
        return self.head.body(self.status, output, extra=self._extra())

    async def events(self, generation: AsyncGenerator[GenerateEvent, None]) -> AsyncGenerator[Event, None]:
        """Yield the events of the stream; closing it closes ``generation``. Raises what that raises.

        Nothing is yielded before the generation has begun, unless it runs in the background.
        """
        if self.head.request.background:
            self.has_started = True
            yield self._snapshot("response.created")
            yield self._snapshot("response.queued")
        async with aclosing(generation):
            async for event in generation:
                match event:
                    case Started():
                        for told in self._begin(event):
                            yield told
                    case Chunk() | CallDelta() | ChoiceFinished():
                        for told in self._writer.add(event):
                            yield self._numbered(told)
                    case Finished():
                        status: Status = "incomplete" if self._writer.is_cut else "completed"
                        body = self.head.body(
                            status,
                            self._writer.items(),
                            usage=event.usage,
                            is_cut=self._writer.is_cut,
                            completed_at=None if self._writer.is_cut else int(self._clock()),
                            extra=self._extra(),
                        )
                        self.is_ending = True
                        await self._keep(body)
                        yield self._ended(body)
                        return
        raise cut_short()

    def failed(self, error: LocalLLMError) -> Event:
        """End the response by an error; return the event that tells of it."""
        return self._ended(self.head.body("failed", self._writer.items(), error=error, extra=self._extra()))

    def farewell(self, error: LocalLLMError, told: Mapping[str, Any]) -> Event:
        """End a stream that an error cut short from outside; ``told`` is the error as a JSON answer has it.

        Once the response has begun it has failed. Before, there is none that could fail.
        """
        return self.failed(error) if self.has_started and self._final is None else lost_event(self._n_events, told)

    def cancelled(self) -> Event:
        """End the response because its caller wants it no more. There is no event of that kind in a stream."""
        body = self.head.body("cancelled", self._writer.items(), extra=self._extra())
        return self._ended(body, kind="response.incomplete")

    def _begin(self, event: Started) -> list[Event]:
        self._fields = dict(event.fields)
        self._warnings += event.warnings
        self.status = "in_progress"
        told = [] if self.has_started else [self._snapshot("response.created")]
        self.has_started = True
        return [*told, self._snapshot("response.in_progress")]

    def _ended(self, body: Body, *, kind: str | None = None) -> Event:
        self._final = body
        self.status = body["status"]
        return self._numbered({"type": kind or f"response.{self.status}", "response": body})

    def _snapshot(self, kind: str) -> Event:
        return self._numbered({"type": kind, "response": self.body})

    def _numbered(self, event: Event) -> Event:
        event["sequence_number"] = self._n_events
        self._n_events += 1
        return event

    def _extra(self) -> dict[str, Any]:
        return self._fields | ({"warnings": list(self._warnings)} if self._warnings else {})


def lost_event(sequence_number: int, told: Mapping[str, Any]) -> Event:
    """Return the event that ends a stream but not its response; ``told`` is the error as a JSON answer has it.

    It has its fields where OpenAI documents them, and once more as ``error``, which makes official clients raise.
    """
    fields = {name: told["error"][name] for name in ("code", "message", "param")}
    return {"type": "error", "sequence_number": sequence_number, **fields, **told}
