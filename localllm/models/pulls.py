"""The pulls of one server: one per source however many ask, each in a process of its own, watched by whoever cares."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from localllm.contract.errors import InvalidRequestError, LocalLLMError, UnavailableError
from localllm.contract.fetch import PullCancelledError, PullProgress, PullResult, PullStatus
from localllm.contract.model import ModelKind
from localllm.models.fetch.job import PullJob
from localllm.models.fetch_process import fetch_in_process
from localllm.models.file_names import fold
from localllm.models.pull_options import PullOptions, make_job

_logger = logging.getLogger("localllm.models")

MAX_RUNNING = 2
"""Pulls at a time; more wait. One alone rarely fills a line, and many would only divide it."""

LONE_GRACE_SECONDS = 10.0
"""For a client to come back in; its pull would go on where it stopped anyway."""

_REMEMBERED = 20
"""Pulls that are over stay in the list until so many more are."""


class Pull:
    """One pull that is under way or over. Event loop only; nobody but :class:`Pulls` makes one."""

    def __init__(self, pull_id: str, job: PullJob) -> None:
        self.id = pull_id
        self.job = job
        self.names: set[str] = set()  # by which requests may mean the model that is on its way
        self.progress = PullProgress(PullStatus.QUEUED, model_id=job.model_id)
        self.result: PullResult | None = None
        self.error: LocalLLMError | None = None
        self.background = False
        self.watchers = 0
        self.on_alone: Callable[[], None] = lambda: None
        self._changed = asyncio.Event()

    @property
    def model_id(self) -> str | None:
        """The id that the model will have; None until the source has told."""
        return self.progress.model_id

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count somebody who wants the model: while there is one the pull goes on."""
        self.watchers += 1
        try:
            yield
        finally:
            self.watchers -= 1
            if not self.watchers:
                self.on_alone()

    async def follow(self) -> AsyncIterator[PullProgress]:
        """Yield the progress now and whenever it has changed, the final one last. Slow readers miss moments."""
        shown: PullProgress | None = None
        while True:
            changed, now = self._changed, self.progress
            if now != shown:
                shown = now
                yield now
                if now.status.is_final:
                    return
                continue
            await changed.wait()

    async def wait(self) -> PullResult:
        """Return the result. Raises the ``LocalLLMError`` that ended the pull."""
        with self.watching():
            async for _ in self.follow():
                pass
        return self.outcome()

    def outcome(self) -> PullResult:
        """Return the result of a pull that is over. Raises the ``LocalLLMError`` that ended it."""
        if self.result is not None:
            return self.result
        raise self.error or PullCancelledError(f"The pull of {self.job.source[:200]} was cancelled.")

    def update(self, progress: PullProgress) -> None:
        """Show a new moment to all who follow."""
        self.progress = progress
        before, self._changed = self._changed, asyncio.Event()
        before.set()


class Pulls:
    """Starts pulls, at most ``max_running`` at a time, and knows those that are over. Event loop only.

    ``on_arrival`` is called with a model's id when it has come into its place, before anybody else is told. A pull
    whose last watcher has left goes on for ``lone_grace_seconds``.
    """

    def __init__(
        self,
        options: PullOptions,
        on_arrival: Callable[[str], None] = lambda model_id: None,
        *,
        max_running: int = MAX_RUNNING,
        lone_grace_seconds: float = LONE_GRACE_SECONDS,
    ) -> None:
        self._options = options
        self._on_arrival = on_arrival
        self._lone_grace_seconds = lone_grace_seconds
        self._pulls: dict[str, Pull] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._numbers = itertools.count(1)
        self._room = asyncio.Semaphore(max_running)
        self._closed = False

    def start(
        self,
        source: str,
        *,
        kind: ModelKind | None = None,
        model_id: str | None = None,
        background: bool = False,
        names: Iterable[str] = (),
        trusted: bool = False,
    ) -> Pull:
        """Start a pull, or return the one that is fetching the same. ``source`` may be a name of the known models.

        ``names`` are what the model will be called beside its id. One that is not in the ``background`` ends when
        nobody watches it any more. A ``trusted`` source was named by whoever runs this machine, and may be a file
        of it.

        Raises ``InvalidRequestError`` for a source that no plugin fetches, ``UnavailableError`` while the server shuts
        down.
        """
        if self._closed:
            message = "The server is shutting down."
            raise UnavailableError(message, retry_after_seconds=5)
        options = replace(self._options, local_sources=True) if trusted else self._options
        job = make_job(options, source, kind=kind, model_id=model_id)
        pull = self.fetching(job.source)
        if pull is None:
            pull = self._begin(job)
        elif (job.model_id, job.kind) not in ((None, None), (pull.job.model_id, pull.job.kind)):
            message = f"{job.source[:200]} is being fetched with another id or kind; wait for it, or cancel {pull.id}."
            raise InvalidRequestError(message, param="id")
        pull.background |= background
        pull.names |= {source, *names}
        return pull

    def reconfigure(self, options: PullOptions, on_arrival: Callable[[str], None] | None = None) -> None:
        """Start pulls by other options from now on, and tell of models that have come to somebody else."""
        self._options = options
        self._on_arrival = on_arrival or self._on_arrival

    def running(self) -> list[Pull]:
        """Return the pulls that are not over."""
        return [pull for pull in self._pulls.values() if not pull.progress.status.is_final]

    def list(self) -> list[Pull]:
        """Return all pulls that are known, the oldest first."""
        return list(self._pulls.values())

    def fetching(self, source: str) -> Pull | None:
        """Return the pull from this source, written as in its job, that is not over."""
        return next((pull for pull in self.running() if pull.job.source == source), None)

    def get(self, pull_id: str) -> Pull | None:
        """Return a pull by its id."""
        return self._pulls.get(pull_id)

    def pending(self, name: str) -> Pull | None:
        """Return the pull that is fetching the model of this name."""
        wanted = fold(name.removesuffix(".gguf"))
        for pull in self.running():
            if wanted in {fold(known) for known in (pull.model_id, *pull.names) if known is not None}:
                return pull
        return None

    async def cancel(self, pull: Pull) -> None:
        """End a pull now and return when its process is gone. What has arrived stays for the next one."""
        task = self._tasks.get(pull.id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def close(self) -> None:
        """Cancel all pulls and take no more."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        for pull in self.running():
            await self.cancel(pull)

    def _begin(self, job: PullJob) -> Pull:
        pull = Pull(f"pull-{next(self._numbers)}", job)
        pull.on_alone = lambda: self._plan_end(pull)
        self._pulls[pull.id] = pull
        self._forget_oldest()
        task = asyncio.create_task(self._run(pull), name=pull.id)
        self._tasks[pull.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(pull.id, None))
        return pull

    def _plan_end(self, pull: Pull) -> None:
        """End a pull that nobody waits for, after a while in which somebody may come back."""
        if pull.background or pull.progress.status.is_final or self._closed:
            return
        if (timer := self._timers.pop(pull.id, None)) is not None:
            timer.cancel()

        def end_if_alone() -> None:
            self._timers.pop(pull.id, None)
            task = self._tasks.get(pull.id)
            if task is not None and not pull.watchers and not pull.background:
                task.cancel()

        loop = asyncio.get_running_loop()
        self._timers[pull.id] = loop.call_later(self._lone_grace_seconds, end_if_alone)

    async def _run(self, pull: Pull) -> None:
        source = pull.job.source[:200]
        try:
            async with self._room:
                pull.result = await fetch_in_process(pull.job, pull.update)
            what = "pulled %s as %s" if pull.result.fresh else "%s is there already, as %s"
            _logger.info(what, source, pull.result.model_id)
            self._on_arrival(pull.result.model_id)
            status = PullStatus.SUCCESS
        except asyncio.CancelledError:
            pull.error = PullCancelledError(f"The pull of {source} was cancelled; pull again to go on.")
            status = PullStatus.CANCELLED
        except LocalLLMError as error:
            _logger.warning("pulling %s failed: %s", source, error.message)
            pull.error, status = error, PullStatus.FAILED
        except Exception as error:
            _logger.exception("pulling %s failed", source)
            pull.error, status = LocalLLMError(f"Pulling {source} failed: {type(error).__name__}."), PullStatus.FAILED
        pull.update(_final(pull, status))

    def _forget_oldest(self) -> None:
        over = [pull for pull in self._pulls.values() if pull.progress.status.is_final]
        for pull in over[:-_REMEMBERED]:
            del self._pulls[pull.id]


def _final(pull: Pull, status: PullStatus) -> PullProgress:
    progress = replace(pull.progress, status=status, file=None, speed=None)
    if pull.result is None:
        return progress
    size_bytes = pull.result.size_bytes
    return replace(progress, completed_bytes=size_bytes, total_bytes=size_bytes, model_id=pull.result.model_id)
