"""One file that is still arriving: what is on disk of it, what it must be continued with, and its hash so far."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from localllm.contract.fetch import StorageFullError

BLOCK_BYTES = 1024 * 1024
_SYNC_BYTES = 256 * 1024 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Identity:
    """By what the other side's file is known again. Only bytes of the same file may be put together.

    ``origin`` is the URL that was asked for. ``etag`` is a strong one; None where there is only a weak one, or none.
    """

    origin: str
    size_bytes: int
    etag: str | None = None
    last_modified: str | None = None

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` may say; None when nothing tells one version of the file from another."""
        return self.etag or self.last_modified


class PartFile:
    """A file under ``<name>.part``, with its identity in ``<name>.json``. Used in a ``with``, by one process."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.part")
        self._notes = path.with_name(f"{path.name}.json")
        self._identity: Identity | None = None
        self._digest = hashlib.sha256()
        self._unsynced_bytes = 0
        self.n_bytes = 0

    def __enter__(self) -> PartFile:
        self._file = self.path.open("ab+", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def identity(self) -> Identity | None:
        """Which file the bytes belong to; None while there are none."""
        return self._identity

    @property
    def sha256(self) -> str:
        """Hash of the bytes that are there, in lower-case hex digits."""
        return self._digest.hexdigest()

    def recall(self, origin: str, progress: Callable[[int], None]) -> None:
        """Take up what an earlier pull of the same URL left; anything else is thrown away.

        ``progress`` gets the number of bytes each time some of them were read again, to be hashed.
        """
        self._identity = self._read_identity()
        if self._identity is None or self._identity.origin != origin:
            self.start_over(None)
            return
        self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            self._digest.update(block)
            self.n_bytes += len(block)
            progress(len(block))
        if self.n_bytes > self._identity.size_bytes:
            self.start_over(None)

    def start_over(self, identity: Identity | None) -> None:
        """Forget all bytes; those that come belong to ``identity``."""
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.n_bytes = 0
        self._identity = identity
        if identity is None:
            self._notes.unlink(missing_ok=True)
            return
        # The notes are on disk before the first byte of what they describe.
        with _explaining_full_disk(self.path), self._notes.open("w", encoding="utf-8") as file:
            json.dump(asdict(identity), file)
            file.flush()
            os.fsync(file.fileno())

    def append(self, data: bytes) -> None:
        """Write more bytes. Raises :class:`StorageFullError`."""
        with _explaining_full_disk(self.path):
            view = memoryview(data)
            while view:
                written = self._file.write(view) or 0
                self._digest.update(view[:written])
                self.n_bytes += written
                view = view[written:]
            self._unsynced_bytes += len(data)
            if self._unsynced_bytes >= _SYNC_BYTES:  # so that the end does not wait for all of it
                self.sync()

    def sync(self) -> None:
        """Return when all bytes are on the disk itself."""
        with _explaining_full_disk(self.path):
            os.fsync(self._file.fileno())
        self._unsynced_bytes = 0

    def discard(self) -> None:
        """Remove the bytes and the notes: they are of no use to a later pull."""
        self.start_over(None)
        self.path.unlink(missing_ok=True)

    def _read_identity(self) -> Identity | None:
        try:
            return Identity(**json.loads(self._notes.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # none, or written by another version
            return None


@contextmanager
def _explaining_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" into the error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        message = f"The disk of {path.parent} is full; make room, and pull again to go on from here."
        raise StorageFullError(message) from None
