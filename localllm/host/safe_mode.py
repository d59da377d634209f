"""Remembers which native builds proved to be miscompiled, so that their models load in safe mode at once."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path

_VERSION = 1
_logger = logging.getLogger("localllm.host")


class SafeModeMemory:
    """A small JSON file, by backend and build. A rebuilt library has another build id and starts afresh.

    Methods touch the disk: call them from a thread, one at a time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._builds: set[tuple[str, str]] | None = None

    def holds(self, backend: str, build_id: str) -> bool:
        """Return whether this build died at its self-test before."""
        return (backend, build_id) in self._known()

    def add(self, backend: str, build_id: str) -> None:
        """Remember a build, on disk too where that is possible."""
        known = self._known()
        known.add((backend, build_id))
        body = json.dumps({"version": _VERSION, "builds": sorted(known)}, indent=2)
        try:
            self._write(body)
        except OSError as error:
            _logger.warning("safe mode is remembered for this run only: %s can't be written: %s", self._path, error)

    def _known(self) -> set[tuple[str, str]]:
        if self._builds is None:
            self._builds = self._read()
        return self._builds

    def _read(self) -> set[tuple[str, str]]:
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            return {(str(backend), str(build)) for backend, build in data["builds"]}
        except FileNotFoundError:
            return set()
        except (OSError, ValueError, KeyError, TypeError) as error:
            _logger.warning("%s can't be read and is started afresh: %s", self._path, error)
            return set()

    def _write(self, body: str) -> None:
        """Replace the file in one step, readable by its owner only."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name)  # mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
