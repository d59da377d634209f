"""Responses that are written in the background: each in a task of its own, whoever stays or leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

from localllm import EventStream, GenerateEvent, LocalLLMError, OverloadedError, UnavailableError, error_body
from localllm.openai.responses import Body, ResponseRun

RETRY_AFTER_SECONDS: Final = 5
_KEPT_STREAMS: Final = 16

Settle = Callable[[Body], Awaitable[None]]


class Job:
    """One response on its way. ``events`` are those of its stream so far, where it has one."""

    def __init__(self, run: ResponseRun, *, has_stream: bool) -> None:
        self.run = run
        self.has_stream = has_stream
        self.events: list[dict[str, Any]] = []
        self.is_over = False
        self.is_cancelled = False
        self.work: asyncio.Task[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def tell(self, event: dict[str, Any]) -> None:
        """Go on with the stream."""
        if self.has_stream:
            self.events.append(event)
            self._wake()

    def end(self) -> None:
        """Let those go who follow."""
        self.is_over = True
        self._wake()

    async def follow(self, after: int = -1) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events whose ``sequence_number`` is above ``after``, as they come, to the last."""
        index = after + 1
        while True:
            news = self._news
            for event in self.events[index:]:
                index += 1
                yield event
            if self.is_over and index >= len(self.events):
                return
            if news is self._news:
                await news.wait()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def stream_of(job: Job, after: int = -1) -> EventStream:
    """Return the answer that follows a job. What cuts it short leaves the job alone."""
    return EventStream(job.follow(after), named=True, farewell=lambda error: job.run.lost(error_body(error)))


class BackgroundJobs:
    """All jobs of one server. Event loop only.

    Streams of the last few that ended can still be followed.
    """

    def __init__(self, limit: int, logger: logging.Logger) -> None:
        self._limit = limit
        self._logger = logger
        self._running: dict[tuple[str, str], Job] = {}
        self._ended: dict[tuple[str, str], Job] = {}
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

    def stream_of(self, owner: str, response_id: str) -> Job | None:
        """Return a job, running or just over, whose stream can be followed."""
        key = owner, response_id
        job = self._running.get(key) or self._ended.get(key)
        return job if job is not None and job.has_stream else None

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
        job = Job(run, has_stream=has_stream)
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
            if job.has_stream:
                self._ended[key] = job
                while len(self._ended) > _KEPT_STREAMS:
                    del self._ended[next(iter(self._ended))]
            job.end()

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
