"""What a disk may hold after a power cut: all that was synced, and of the rest any part, in any order, torn anywhere.

SQLite's own method (https://www.sqlite.org/testing.html, "Crash Testing"): sectors that were written but not synced
are kept, lost, or full of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.plugins.sessions.faulty_vfs import Operation

SECTOR_BYTES = 512


class DiskImage:
    """One file as the platter has it: what is durable, and what was done to it since."""

    def __init__(self) -> None:
        self.durable: bytes | None = None
        self.pending: list[Operation] = []

    def note(self, operation: Operation) -> None:
        """Take one more operation, in order."""
        if operation.kind == "sync":
            self.durable = self.content(None)
            self.pending.clear()
        elif operation.kind == "open":
            if self.content(None) is None:
                self.pending.append(Operation("truncate", operation.path))
        else:
            self.pending.append(operation)

    def folder_synced(self) -> None:
        """Take note that what was deleted is gone for good."""
        deletions = [index for index, operation in enumerate(self.pending) if operation.kind == "delete"]
        if deletions:
            self.durable = None
            del self.pending[: deletions[-1] + 1]

    def content(self, random: Random | None) -> bytes | None:
        """Return what a cut leaves, None for no file; without ``random`` all that was written."""
        content = None if self.durable is None else bytearray(self.durable)
        for operation in self.pending:
            if operation.kind == "delete":
                content = None if random is None or random.random() < 0.5 else content
                continue
            content = bytearray() if content is None else content
            if operation.kind == "truncate":
                if random is None or random.random() < 0.5:
                    del content[operation.size :]
            else:
                _write(content, operation, random)
        return None if content is None else bytes(content)


def _write(content: bytearray, operation: Operation, random: Random | None) -> None:
    """Apply a write sector by sector; only bytes that it covers change, as drives are taken to see to."""
    end = operation.offset + len(operation.data)
    start = operation.offset
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        fate = 0 if random is None else random.randrange(3)
        if fate < 2:
            piece = operation.data[start - operation.offset : stop - operation.offset]
            content.extend(bytes(max(0, stop - len(content))))
            content[start:stop] = piece if fate == 0 else bytes(len(piece))
        start = stop


def cut(operations: Sequence[Operation], folder: Path, random: Random) -> None:
    """Write into an empty folder what the disk holds when the power goes after these operations."""
    images: dict[str, DiskImage] = {}
    made: set[str] = set()  # logs and journals whose entry in the folder SQLite syncs with their first content
    for operation in operations:
        name = operation.path.name
        image = images.setdefault(name, DiskImage())
        if operation.kind == "open" and image.content(None) is None and name != "sessions.db":
            made.add(name)
        if operation.kind == "sync" and name in made:
            made.discard(name)
            for one in images.values():
                one.folder_synced()
        image.note(operation)
    for name, image in images.items():
        content = image.content(random)
        if content is not None:
            (folder / name).write_bytes(content)
