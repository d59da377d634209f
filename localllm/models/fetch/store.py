"""What pulls keep beside the models: half-fetched files, who is at work, and where each model came from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from localllm.contract.fetch import PullError, PullResult

STORE_NAME = ".localllm"
"""Folder inside the models' folder, so that what is complete only has to be renamed."""

_STALE_SECONDS = 30 * 24 * 3600.0


class Store:
    """The folder ``.localllm`` of a models' folder. Its methods raise ``OSError``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._root = directory / STORE_NAME

    @contextmanager
    def staging(self, source: str) -> Iterator[Path]:
        """Lend the folder for the half-fetched files of a source, to one process at a time.

        Raises ``PullError`` when another process is fetching the same.
        """
        key = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        folder, locks = self._root / "parts" / key, self._root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with _locked(locks / key, source):
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)  # it is in use, whatever its age
            yield folder

    def remove_stale(self) -> None:
        """Remove half-fetched files that nobody has asked for again in a month."""
        oldest = time.time() - _STALE_SECONDS
        parts = self._root / "parts"
        for folder in list(parts.iterdir()) if parts.is_dir() else []:
            with suppress(OSError, PullError):
                if folder.stat().st_mtime < oldest:
                    with _locked(self._root / "locks" / folder.name, folder.name):
                        shutil.rmtree(folder)

    def find(self, source: str) -> PullResult | None:
        """Return what was pulled from ``source`` before, or was about to be: of several models one that is in place."""
        records = self._root / "pulled"
        paths = sorted(records.glob("*.json")) if records.is_dir() else []
        results = [result for path in paths if (result := _read_result(path, self.directory)) is not None]
        found = [result for result in results if result.source == source]
        return next(filter(is_in_place, found), found[0] if found else None)

    def find_model(self, model_id: str) -> PullResult | None:
        """Return where the model of this id came from."""
        return _read_result(self._record(model_id), self.directory)

    def remember(self, result: PullResult) -> None:
        """Note where a model comes from, in place of what was noted for its name."""
        path = self._record(result.model_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(_placed(result, self.directory, relative=True).to_plain(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    def forget(self, model_id: str) -> None:
        """Drop the note on a model that was removed."""
        self._record(model_id).unlink(missing_ok=True)

    def _record(self, model_id: str) -> Path:
        return self._root / "pulled" / f"{model_id}.json"


def sync_folder(folder: Path) -> None:
    """Return when renames inside ``folder`` are on the disk itself; does nothing where folders can't be opened."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _placed(result: PullResult, directory: Path, *, relative: bool) -> PullResult:
    """Return the result with paths that count from the models' folder, which may move, or with absolute ones."""
    files = [
        replace(file, path=str(Path(file.path).relative_to(directory) if relative else directory / file.path))
        for file in result.files
    ]
    return replace(result, files=tuple(files))


def _read_result(path: Path, directory: Path) -> PullResult | None:
    try:
        result = PullResult.from_plain(json.loads(path.read_text(encoding="utf-8")))
        return _placed(result, directory, relative=False)
    except (OSError, ValueError, KeyError, TypeError):  # a note is a help, and nothing depends on a broken one
        return None


def is_in_place(result: PullResult) -> bool:
    """Say whether all files of a pulled model are still there, with the sizes that they came with."""
    try:
        return all(Path(file.path).stat().st_size == file.size_bytes for file in result.files)
    except OSError:
        return False


@contextmanager
def _locked(path: Path, source: str) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends."""
    with path.open("a+b") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"{source[:200]} is being fetched by another process right now; wait for it to finish."
            raise PullError(message) from None
        yield
