"""Gets a file of this machine: as a second name for the same bytes where the disk allows it, else as a copy."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

from localllm.contract.errors import ModelFileError
from localllm.contract.fetch import PullError, PullStatus, RemoteFile, StorageFullError
from localllm.models.fetch.download import MAGIC, Tools
from localllm.models.fetch.meter import Meter
from localllm.models.fetch.part import BLOCK_BYTES


def take_local(file: RemoteFile, target: Path, tools: Tools, meter: Meter) -> str:
    """Bring ``file.path`` to ``target`` and return its sha256.

    Raises ``PullError``, ``StorageFullError``, and ``ModelFileError`` for what is no GGUF file.
    """
    source = Path(file.path or "").resolve()
    size_bytes = _check(source, file)
    if file.size_bytes is None:
        meter.expect(size_bytes)
    target.unlink(missing_ok=True)
    meter.show(PullStatus.VERIFYING, file=file.name)
    try:
        try:
            os.link(source, target)
            found = _copy(source, None, meter)
        except OSError:  # another disk, a file of somebody else, or a file system without hard links
            tools.require_room(size_bytes)
            found = _copy(source, target, meter)
    except OSError as error:
        target.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"The disk of {target.parent} is full; make room, and pull again."
            raise StorageFullError(message) from None
        message = f"{source} can't be copied: {error.strerror or error}."
        raise PullError(message) from None
    if file.sha256 not in (None, found):
        target.unlink(missing_ok=True)
        message = f"{source} has the sha256 {found}, but {file.sha256} was expected."
        raise PullError(message)
    return found


def _check(source: Path, file: RemoteFile) -> int:
    """Return the size of a regular file that begins as a GGUF file does; devices and pipes are not opened."""
    try:
        known = source.stat()
        if not stat.S_ISREG(known.st_mode):
            message = f"{source} is no regular file."
            raise PullError(message)
        with source.open("rb") as opened:
            beginning = opened.read(len(MAGIC))
    except OSError as error:
        message = f"{source} can't be read: {error.strerror or error}."
        raise PullError(message) from None
    if beginning != MAGIC:
        message = f"{file.name} is no GGUF file."
        raise ModelFileError(message)
    if file.size_bytes not in (None, known.st_size):
        message = f"{source} has {known.st_size} bytes, but {file.size_bytes} were expected."
        raise PullError(message)
    return known.st_size


def _copy(source: Path, target: Path | None, meter: Meter) -> str:
    """Read a file, write it to ``target`` if there is one, and return its sha256."""
    digest = hashlib.sha256()
    with source.open("rb") as read:
        if target is None:
            while block := read.read(BLOCK_BYTES):
                digest.update(block)
                meter.add(len(block))
            return digest.hexdigest()
        with target.open("xb") as write:
            while block := read.read(BLOCK_BYTES):
                digest.update(block)
                write.write(block)
                meter.add(len(block))
            write.flush()
            os.fsync(write.fileno())
    return digest.hexdigest()
