"""Applies a changed configuration while requests go on: all of it at one moment, or nothing where it is wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.config.changes import compare
from localllm.config.errors import ConfigError
from localllm.config.schema import Config
from localllm.contract.errors import LocalLLMError
from localllm.server.service_manager import ServiceManager

if TYPE_CHECKING:
    from localllm.models.catalog import Catalog

WATCH_SECONDS = 0.5
"""How often the file is looked at. It is read when it has been at rest for one such pause: an editor may be at it."""

_logger = logging.getLogger("localllm.server")

FileStamp = tuple[int, int, int]
"""Modification time in nanoseconds, size, and number of the file, which changes when another is renamed over it."""


def file_stamp(path: Path) -> FileStamp | None:
    """Return the stamp of a file, None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class InvalidConfigurationError(LocalLLMError):
    """The configuration that was to be applied is wrong; the server goes on with the one that it had."""

    code = "invalid_configuration"

    def __init__(self, problems: tuple[str, ...]) -> None:
        message = f"The configuration was not changed: {'; '.join(problems)}"
        super().__init__(message, detail={"problems": list(problems)})


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """How a running server reads its configuration again. ``read`` and ``build_catalog`` raise ``ConfigError``.

    Both are called in a thread. ``path`` is the file that is watched, with its stamp as of when it was read first.
    ``live_plugins`` are the plugins whose section the next load, or the next pull, looks at.
    """

    read: Callable[[], Config]
    build_catalog: Callable[[Config], Catalog]
    path: Path
    stamp: FileStamp | None
    live_plugins: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a reload did, by dotted keys. ``warnings`` are models that can't be served, as at a start."""

    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """Return it as the answer of ``POST /v1/admin/reload``. Keys only, and so no secret."""
        return {
            "applied": list(self.applied),
            "needs_restart": list(self.needs_restart),
            "unchanged": not (self.applied or self.needs_restart),
            "warnings": list(self.warnings),
        }


class Reloader:
    """Reads the configuration again and puts it in force. Event loop only; reloads take turns.

    ``put_in_force`` gets the new configuration and its catalogue. It must not wait: nothing runs between the old
    configuration and the new one. What it raises leaves the old one in force.
    """

    def __init__(
        self,
        running: Config,
        source: ConfigSource,
        put_in_force: Callable[[Config, Catalog], None],
        manager: ServiceManager,
    ) -> None:
        self.config = running
        self._source = source
        self._put_in_force = put_in_force
        self._manager = manager
        self._stamp = source.stamp
        self._moving: FileStamp | None = None
        self._turn = asyncio.Lock()
        self._asked = asyncio.Event()

    async def reload(self) -> Outcome:
        """Apply what can be applied. Raises :class:`InvalidConfigurationError`, and then nothing has changed."""
        async with self._turn:
            self._stamp = file_stamp(self._source.path)
            self._manager.reloading()
            try:
                outcome = await self._reload()
            except ConfigError as error:
                _logger.error("the configuration was not changed:\n%s", "\n".join(error.problems))
                raise InvalidConfigurationError(error.problems) from None
            finally:
                self._manager.ready()
            _log(outcome)
            return outcome

    def ask(self) -> None:
        """Have :meth:`run` reload soon; what is wrong will be in the log."""
        self._asked.set()

    async def run(self) -> None:
        """Reload when asked, and when the file has changed and come to rest, until cancelled."""
        while True:
            await self._pause()
            if self._asked.is_set() or self._has_changed():
                self._asked.clear()
                try:
                    await self.reload()
                except InvalidConfigurationError:
                    continue  # the log says it; the file's next change is the next attempt
                except Exception:
                    _logger.exception("the configuration can't be applied; the server goes on with the one that it has")

    async def _reload(self) -> Outcome:
        fresh = await asyncio.to_thread(self._source.read)
        changes = compare(self.config, fresh, self._source.live_plugins)
        catalog = await asyncio.to_thread(self._source.build_catalog, changes.config)
        if changes.applied:
            self._put_in_force(changes.config, catalog)
        self.config = changes.config
        return Outcome(changes.applied, changes.needs_restart, catalog.problems)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(WATCH_SECONDS):
                await self._asked.wait()

    def _has_changed(self) -> bool:
        """Say whether the file is another than the one that was read last, and was the same at the last look."""
        now = file_stamp(self._source.path)
        at_rest = now == self._moving
        self._moving = now
        return self.config.server.watch_config and at_rest and now is not None and now != self._stamp


def _log(outcome: Outcome) -> None:
    if not (outcome.applied or outcome.needs_restart):
        _logger.info("the configuration was read again and has not changed")
    if outcome.applied:
        _logger.info("the configuration was changed: %s", ", ".join(outcome.applied))
    if outcome.needs_restart:
        _logger.warning("restart the server to change: %s", ", ".join(outcome.needs_restart))
    for warning in outcome.warnings:
        _logger.warning("%s", warning)
