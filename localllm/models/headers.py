"""Remembers the headers of model files, so that only files that are new or changed are read."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from localllm.contract.errors import ModelFileError
from localllm.models.gguf import read_header
from localllm.models.gguf_header import GgufHeader

_BEGINNING_BYTES = 4096
"""By which an unfinished file is recognised: counts, name and sizes stand there."""

Stamp = tuple[int, int, int]
"""Modification time in nanoseconds, size and inode: what has the same stamp was not changed and not replaced."""


def stamp(path: Path) -> Stamp | None:
    """Return the stamp of a file or folder, None when there is none. Links are followed."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a NUL in it
        return None
    return found.st_mtime_ns, 0 if stat.S_ISDIR(found.st_mode) else found.st_size, found.st_ino


@dataclass(frozen=True, slots=True)
class _Reading:
    """What reading one header brought, or the sentence why it could not be read.

    ``beginning`` is kept of unfinished files, which need ``needs_bytes``.
    """

    stamp: Stamp | None
    outcome: GgufHeader | str  # never the error itself: its traceback holds the reader with all that it read
    needs_bytes: int = 0
    beginning: bytes = b""


class HeaderCache:
    """Remembers the headers of files that did not change, faults included. Belongs to one thread.

    A file that is being copied changes all the time: as long as it is the same one and not complete, its header is not
    read again, for that may take a tenth of a second.
    """

    def __init__(self) -> None:
        self._known: dict[Path, _Reading] = {}

    def knows(self, path: Path) -> bool:
        """Tell whether :meth:`read` would answer without reading."""
        return self._valid(path, stamp(path)) is not None

    def read(self, path: Path) -> GgufHeader:
        """Return the header; raises :class:`ModelFileError`."""
        now = stamp(path)
        reading = self._valid(path, now)
        if reading is None:
            reading = self._known[path] = _read(path, now)
        if isinstance(reading.outcome, str):
            raise ModelFileError(reading.outcome)
        return reading.outcome

    def keep_only(self, paths: Iterable[Path]) -> None:
        """Forget all other files."""
        wanted = set(paths)
        self._known = {path: entry for path, entry in self._known.items() if path in wanted}

    def _valid(self, path: Path, now: Stamp | None) -> _Reading | None:
        known = self._known.get(path)
        return known if known is not None and (known.stamp == now or _still_incomplete(path, known, now)) else None


def _read(path: Path, now: Stamp | None) -> _Reading:
    try:
        return _Reading(now, read_header(path))
    except ModelFileError as error:
        needs_bytes = int(error.detail.get("needs_bytes", 0))
        return _Reading(now, error.message, needs_bytes, _beginning(path) if needs_bytes else b"")


def _still_incomplete(path: Path, known: _Reading, now: Stamp | None) -> bool:
    if now is None or known.stamp is None or not known.stamp[1] <= now[1] < known.needs_bytes:
        return False
    return _beginning(path).startswith(known.beginning)


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_BEGINNING_BYTES)
    except OSError:  # it has gone meanwhile
        return b""
