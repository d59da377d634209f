"""Responses that are written in the background: each in a task of its own, whoever stays or leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

from localllm import EventStream, GenerateEvent, LocalLLMError, OverloadedError, UnavailableError, error_body
from localllm.openai.responses import Body, ResponseRun, lost_event

RETRY_AFTER_SECONDS: Final = 5
_KEPT_STREAMS: Final = 16
_KEPT_EVENTS: Final = 65_536  # of all of them, each below 1 KB

Settle = Callable[[Body], Awaitable[None]]


class Stream:
    """The events of one response's stream so far. It holds nothing else of the response, for it outlives it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._is_over = False
        self._news = asyncio.Event()

    def tell(self, event: dict[str, Any]) -> None:
        """Go on."""
        self.events.append(event)
        self._wake()

    def end(self) -> None:
        """Let those go who follow."""
        self._is_over = True
        self._wake()

    async def follow(self, after: int = -1) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events whose ``sequence_number`` is above ``after``, as they come, to the last."""
        index = after + 1
        while True:
            news = self._news
            for event in self.events[index:]:
                index += 1
                yield event
            if self._is_over and index >= len(self.events):
                return
            if news is self._news:
                await news.wait()

    def answer(self, after: int = -1) -> EventStream:
        """Return the answer that follows. What cuts it short leaves the response alone."""
        return EventStream(
            self.follow(after), named=True, farewell=lambda error: lost_event(len(self.events), error_body(error))
        )

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Job:
    """One response on its way, with its stream, where it has one."""

    def __init__(self, run: ResponseRun, stream: Stream | None) -> None:
        self.run = run
        self.stream = stream
        self.is_cancelled = False
        self.work: asyncio.Task[None] | None = None
        self.task: asyncio.Task[None] | None = None

    def tell(self, event: dict[str, Any]) -> None:
        """Go on with the stream."""
        if self.stream is not None:
            self.stream.tell(event)


class BackgroundJobs:
    """All jobs of one server. Event loop only.

    Streams of the last few that ended can still be followed.
    """

    def __init__(self, limit: int, logger: logging.Logger) -> None:
        self._limit = limit
        self._logger = logger
        self._running: dict[tuple[str, str], Job] = {}
        self._ended: dict[tuple[str, str], Stream] = {}
        self._n_beginning = 0
        self._is_closing = False

    @contextmanager
    def room(self) -> Iterator[None]:
        """Hold the place of a job that begins inside of the block.

        Raises ``OverloadedError`` when as many run as may, ``UnavailableError`` when the server is ending.
        """
        if self._is_closing:
            raise _shutting_down()
        if len(self._running) + self._n_beginning >= self._limit:
            message = (
                f"As many responses are on their way in the background as may be ({self._limit}, "
                "plugin.responses.max_background): wait for one, or cancel it."
            )
            raise OverloadedError(message, retry_after_seconds=RETRY_AFTER_SECONDS)
        self._n_beginning += 1
        try:
            yield
        finally:
            self._n_beginning -= 1

    def running(self, owner: str, response_id: str) -> Job | None:
        """Return a job that is not over."""
        return self._running.get((owner, response_id))

    def stream_of(self, owner: str, response_id: str) -> Stream | None:
        """Return the stream of a job that runs, or is just over."""
        job = self.running(owner, response_id)
        return job.stream if job is not None else self._ended.get((owner, response_id))

    def start(
        self,
        owner: str,
        run: ResponseRun,
        generation: AsyncGenerator[GenerateEvent, None],
        settle: Settle,
        *,
        has_stream: bool,
    ) -> Job:
        """Begin to write a response. ``settle`` keeps the body of one that did not come to its end."""
        job = Job(run, Stream() if has_stream else None)
        key = owner, run.head.id
        self._running[key] = job
        job.work = asyncio.create_task(self._write(job, generation), name=f"write {run.head.id}")
        job.task = asyncio.create_task(self._see_through(key, job, job.work, settle), name=f"background {run.head.id}")
        return job

    async def cancel(self, job: Job) -> Body:
        """End a job now and return its body. Of one that ends by itself at this moment that is what came of it."""
        job.is_cancelled = True
        return await self._end(job)

    async def forget(self, owner: str, response_id: str) -> None:
        """End a job, if there is one, and its stream."""
        job = self._running.get((owner, response_id))
        if job is not None:
            await self.cancel(job)
        self._ended.pop((owner, response_id), None)

    async def close(self) -> None:
        """End all jobs; those that are not complete have failed."""
        self._is_closing = True
        await asyncio.gather(*[self._end(job) for job in list(self._running.values())])

    async def _end(self, job: Job) -> Body:
        if job.work is not None and job.task is not None:
            if not job.run.is_ending:
                job.work.cancel()
            await asyncio.wait([job.task])
        return job.run.body

    async def _write(self, job: Job, generation: AsyncGenerator[GenerateEvent, None]) -> None:
        async with aclosing(job.run.events(generation)) as events:
            async for event in events:
                job.tell(event)

    async def _see_through(self, key: tuple[str, str], job: Job, work: asyncio.Task[None], settle: Settle) -> None:
        try:
            await asyncio.wait([work])
            last = self._last_event(job, work)
            if last is not None:
                await self._settle(job, settle)
                job.tell(last)
            self._log(job)
        finally:
            del self._running[key]
            if job.stream is not None:
                job.stream.end()
                self._remember(key, job.stream)

    def _remember(self, key: tuple[str, str], stream: Stream) -> None:
        """Keep a stream that ended, and of the others as many as there is room for, but this one always."""
        self._ended[key] = stream
        n_events = sum(len(one.events) for one in self._ended.values())
        while len(self._ended) > _KEPT_STREAMS or (len(self._ended) > 1 and n_events > _KEPT_EVENTS):
            n_events -= len(self._ended.pop(next(iter(self._ended))).events)

    def _last_event(self, job: Job, work: asyncio.Task[None]) -> dict[str, Any] | None:
        """Return how a job's stream ends, None when it has told so itself."""
        if work.cancelled():
            return job.run.cancelled() if job.is_cancelled else job.run.failed(_shutting_down())
        error = work.exception()
        if error is None:
            return None
        if not isinstance(error, LocalLLMError):
            self._logger.error("response %s failed", job.run.head.id, exc_info=error)
            error = LocalLLMError(f"The server failed to answer. Its log has the details under {job.run.head.id}.")
        return job.run.failed(error)

    def _log(self, job: Job) -> None:
        """Write a line: the request's own told of nothing but that it was begun."""
        body = job.run.body
        usage = body["usage"] or {}
        self._logger.info(
            "%s in the background: %s model=%s prompt_tokens=%s completion_tokens=%s",
            body["id"],
            body["status"],
            body["model"],
            usage.get("input_tokens"),
            usage.get("output_tokens"),
        )

    async def _settle(self, job: Job, settle: Settle) -> None:
        try:
            await settle(job.run.body)
        except LocalLLMError as error:  # it stays "in progress" in the store; whoever asks for it finds it failed
            self._logger.warning("response %s could not be kept: %s", job.run.head.id, error.message)


def _shutting_down() -> UnavailableError:
    return UnavailableError("The server was shut down before the response was complete. Send the request again.")
