"""One open database: a thread that writes, a thread that reads, and what both do when the file fails them."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from localllm import SessionStorageFullError

from .sqlite_connection import connect_reader, connect_writer, open_writer, start_error
from .sqlite_faults import Fault, StoreStartError, as_store_error, broken, closed, is_io_error
from .sqlite_file import DatabaseFile, Identity
from .sqlite_schema import MIGRATIONS, Migration
from .writer import Job, JobThread, Outcome, Work, run_in_one_transaction

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """Where the database lies, how long is waited for others who hold it, and what it may take (0: all there is)."""

    path: Path
    busy_seconds: float = 5.0
    max_bytes: int = 0
    migrations: Sequence[Migration] = MIGRATIONS


class Database:
    """Opened and closed by one thread, one after the other; :meth:`write` and :meth:`read` may come from any.

    Reads see what was committed and never wait for a writer. After an I/O error a connection is closed and another one
    opened: what a failed fsync was to write may be lost without a further error
    (https://www.usenix.org/conference/atc20/presentation/rebello). The other connection stays open meanwhile and keeps
    the index of the log in memory, so that what was not acknowledged does not come back.
    """

    def __init__(self, options: DatabaseOptions, logger: logging.Logger) -> None:
        self._options = options
        self._file = DatabaseFile(options.path)
        self._logger = logger
        self._opened = ExitStack()
        self._known: dict[Path, Identity] = {}
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._write_thread: JobThread | None = None
        self._read_thread: JobThread | None = None

    def open(self) -> None:
        """Open the file, or make it. Blocks. Raises :class:`StoreStartError`; then nothing is left open."""
        options = self._options
        with ExitStack() as opened:
            opened.enter_context(self._file.locked())
            self._file.prepare()
            opened.callback(self._drop_connections)
            self._writer = open_writer(
                options.path,
                busy_seconds=options.busy_seconds,
                max_bytes=options.max_bytes,
                migrations=options.migrations,
            )
            try:
                self._reader = connect_reader(options.path, busy_seconds=options.busy_seconds)
                self._known = self._file.identify()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise start_error(error, options.path) from error
            self._opened = opened.pop_all()
        self._write_thread = JobThread("sessions-writer", self._run_writes)
        self._read_thread = JobThread("sessions-reader", self._run_reads)

    def close(self) -> None:
        """Do what waits, then let go of everything. Blocks. What comes later is refused."""
        threads = (self._read_thread, self._write_thread)
        self._read_thread = self._write_thread = None
        for thread in threads:
            if thread is not None:
                thread.close()
        self._opened.close()

    def write(self, work: Callable[[sqlite3.Connection], Result]) -> Future[Result]:
        """Have ``work`` done in a transaction that may be shared with others; the result comes once it is durable."""
        return self._submit(self._write_thread, work)

    def read(self, work: Callable[[sqlite3.Connection], Result]) -> Future[Result]:
        """Have ``work`` done in a transaction that only reads."""
        return self._submit(self._read_thread, work)

    def _submit(self, thread: JobThread | None, work: Work) -> Future[Any]:
        if thread is None:
            raise closed()
        return thread.submit(work)

    def _run_writes(self, jobs: list[Job]) -> None:
        try:
            outcomes = self._commit(jobs)
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits must be told
            outcomes = self._after_failure(jobs, error)
        for job, outcome in zip(jobs, outcomes, strict=True):
            outcome.settle(job)

    def _after_failure(self, jobs: list[Job], error: Exception) -> list[Outcome]:
        """Give each job a try of its own when one of them may be to blame: faulty, or larger than what is left."""
        failure = self._failure(error)
        if len(jobs) > 1 and isinstance(failure, (SessionStorageFullError, sqlite3.Error)):
            return [self._try_alone(job) for job in jobs]
        return [Outcome(error=failure)] * len(jobs)

    def _try_alone(self, job: Job) -> Outcome:
        try:
            [outcome] = self._commit([job])
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits must be told
            return Outcome(error=self._failure(error))
        return outcome

    def _commit(self, jobs: list[Job]) -> list[Outcome]:
        self._file.check(self._known, to_write=True)
        try:
            outcomes = run_in_one_transaction(self._connected_writer(), jobs)
        except sqlite3.Error as error:
            if is_io_error(error):
                self._drop_writer()
            raise
        self._file.check(self._known, to_write=False)  # what went into a deleted file is not acknowledged
        return outcomes

    def _connected_writer(self) -> sqlite3.Connection:
        if self._writer is None:
            options = self._options
            self._writer = connect_writer(options.path, busy_seconds=options.busy_seconds, max_bytes=options.max_bytes)
        return self._writer

    def _run_reads(self, jobs: list[Job]) -> None:
        for job in jobs:
            try:
                outcome = Outcome(self._read(job.work))
            except Exception as error:  # noqa: BLE001 - whatever it is, who waits must be told
                outcome = Outcome(error=self._failure(error))
                if is_io_error(error):
                    self._renew_reader()
            outcome.settle(job)

    def _read(self, work: Work) -> Any:  # noqa: ANN401
        self._file.check(self._known, to_write=False)
        if self._reader is None:
            self._reader = connect_reader(self._options.path, busy_seconds=self._options.busy_seconds)
        reader = self._reader
        reader.execute("BEGIN")
        try:
            return work(reader)
        finally:
            if reader.in_transaction:
                reader.execute("ROLLBACK")

    def _renew_reader(self) -> None:
        """Replace the reader without a moment in which nobody has the file open."""
        before = self._reader
        try:
            self._reader = connect_reader(self._options.path, busy_seconds=self._options.busy_seconds)
        except sqlite3.Error as error:
            self._logger.warning("%s can't be opened again: %s", self._options.path, error)
        else:
            if before is not None:
                before.close()

    def _failure(self, error: Exception) -> Exception:
        """Return what callers get; what is wrong with the file is logged."""
        if isinstance(error, StoreStartError):  # of a connection that was to replace another
            self._logger.error("%s", error)
            return broken()
        if not isinstance(error, Fault):
            return error
        known = as_store_error(error, self._options.path)
        if known is None:
            return error
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        self._logger.error("%s: %s (%s)", self._options.path, error, name)
        return known

    def _drop_connections(self) -> None:
        """Close both; the last one brings what is in the log into the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._drop_writer()

    def _drop_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
