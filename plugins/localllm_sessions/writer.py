"""The thread that alone writes: everything that waits goes into one transaction, and is told once that is durable."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from .sqlite_faults import closed

Work = Callable[[sqlite3.Connection], Any]

MAX_BATCH = 256
"""Most pieces of work in one transaction."""


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work, and who waits for it."""

    work: Work
    future: Future[Any] = field(default_factory=Future)


class JobThread:
    """A thread that hands what waits, in the order of its arrival, to ``run``: one job or several, never none.

    ``run`` settles every job's future and does not raise. Threads of any kind may :meth:`submit`.
    """

    def __init__(self, name: str, run: Callable[[list[Job]], None], *, max_batch: int = MAX_BATCH) -> None:
        self._run = run
        self._max_batch = max_batch
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> Future[Any]:
        """Have ``work`` done; cancelling the future leaves it out if it has not begun.

        Raises ``SessionStoreUnavailableError`` when the thread ends, or has ended.
        """
        job = Job(work)
        with self._closing:
            if self._is_closed:
                raise closed()
            self._waiting.put(job)
        return job.future

    def close(self) -> None:
        """Do what waits, then end the thread; once."""
        with self._closing:
            self._is_closed = True
            self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        ending = False
        while not ending:
            arrived = [self._waiting.get()]
            while len(arrived) < self._max_batch and not self._waiting.empty():
                arrived.append(self._waiting.get())
            ending = None in arrived
            jobs = [job for job in arrived if job is not None and job.future.set_running_or_notify_cancel()]
            if jobs:
                self._run(jobs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job."""

    result: Any = None
    error: BaseException | None = None

    def settle(self, job: Job) -> None:
        """Tell who waits."""
        if self.error is None:
            job.future.set_result(self.result)
        else:
            job.future.set_exception(self.error)


def run_in_one_transaction(connection: sqlite3.Connection, jobs: list[Job]) -> list[Outcome]:
    """Do all jobs in one transaction, each as if alone: one that is refused leaves no trace, the others stay.

    Nothing is durable, and nobody may be told, before this returns. Raises what SQLite says, and then nothing of it
    happened.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        outcomes = [_run_as_part(connection, job) for job in jobs]
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # not after errors that SQLite itself rolls back for
            connection.execute("ROLLBACK")
        raise
    return outcomes


def _run_as_part(connection: sqlite3.Connection, job: Job) -> Outcome:
    connection.execute("SAVEPOINT job")
    try:
        outcome = Outcome(job.work(connection))
    except sqlite3.Error:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's
        connection.execute("ROLLBACK TO job")
        outcome = Outcome(error=error)
    connection.execute("RELEASE job")
    return outcome
