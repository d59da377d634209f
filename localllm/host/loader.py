"""Loading one model: by a worker, with a second try in safe mode for a miscompiled build, or by a backend's client."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from localllm.contract.backend import BackendSpec, LoadRequest, ModelClient
from localllm.contract.errors import LocalLLMError, ModelLoadError
from localllm.contract.events import Event, WorkerDied
from localllm.contract.model import Mode, ModelSpec
from localllm.contract.wire import Hello
from localllm.host.client import WorkerClient
from localllm.host.environment import worker_environment
from localllm.host.fitting import MEMORY_REASON, says_memory
from localllm.host.launch import LaunchSettings, WorkerDiedLoadingError, launch_worker
from localllm.host.process import WorkerCommand, WorkerExit
from localllm.host.safe_mode import SafeModeMemory
from localllm.transport.launch import WORKER_ARGV

BUILD_FAULTS = frozenset({"SIGSEGV", "SIGILL", "SIGBUS"})
"""Deaths that a miscompiled library dies of; a failed assertion (SIGABRT) is about the file."""

_logger = logging.getLogger("localllm.host")


class Loaded(NamedTuple):
    """A model that can be asked, and whether it runs in safe mode."""

    client: ModelClient
    safe_mode: bool

    @property
    def worker(self) -> WorkerClient | None:
        """The client, where it is one of a worker process."""
        return self.client if isinstance(self.client, WorkerClient) else None

    @property
    def prefilled_tokens_total(self) -> int:
        """Prompt tokens that its worker has evaluated."""
        return 0 if self.worker is None else self.worker.prefilled_tokens_total


def load_key(spec: ModelSpec) -> object:
    """Return what a loaded model depends on: when it changes (a new file under the old name), it is loaded again.

    The file is told by its time, which copies may keep, and its size. What else is known of the model is for callers.
    """
    return spec.backend, spec.path, spec.created, spec.meta.get("size"), dict(spec.settings), spec.preload


async def close_client(model_id: str, client: ModelClient) -> None:
    """Let a loaded model go. A backend's own client that fails at that is in the log."""
    try:
        await client.close()
    except Exception:
        _logger.exception("the client of %s failed to close; it is let go all the same", model_id)


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """How workers are started. ``extra_environment`` comes on top of the allow-list (tests add ``PYTHONPATH``).

    ``state_dir`` is the server's folder for what outlives a worker (None: nothing does).
    """

    launch: LaunchSettings
    argv: tuple[str, ...] = WORKER_ARGV
    extra_environment: Mapping[str, str] = field(default_factory=dict)
    state_dir: str | None = None


class ModelLoader:
    """Loads models of all backends; keeps nothing of what it loaded."""

    def __init__(self, settings: LoaderSettings, safe_modes: SafeModeMemory, emit: Callable[[Event], None]) -> None:
        self._settings = settings
        self._safe_modes = safe_modes
        self._emit = emit

    async def load(self, spec: ModelSpec, mode: Mode, backend: BackendSpec) -> Loaded:
        """Load ``spec``. Raises ``LocalLLMError``; then nothing is left running."""
        if backend.kind == "client":
            return Loaded(await self._connect(spec, mode, backend), safe_mode=False)
        build_id = await asyncio.to_thread(backend.build_id) if backend.build_id else None
        safe = build_id is not None and await asyncio.to_thread(self._safe_modes.holds, backend.name, build_id)
        try:
            loaded = Loaded(await self._launch(spec, mode, backend, safe_mode=safe), safe)
        except WorkerDiedLoadingError as death:
            first = death.exit
        else:
            if safe:  # remembered from an earlier run, whose log may be gone
                _warn_of_safe_mode(spec, backend)
            return loaded
        self._report(spec, first)
        if safe or first.killed_for is not None or first.signal_name not in BUILD_FAULTS:
            raise _load_error(spec.id, first)
        return await self._load_safely(spec, mode, backend, first, build_id)

    async def _load_safely(
        self, spec: ModelSpec, mode: Mode, backend: BackendSpec, first: WorkerExit, build_id: str | None
    ) -> Loaded:
        _logger.warning("the worker of %s ended by %s before it was ready: trying safe mode", spec.id, first.cause)
        try:
            client = await self._launch(spec, mode, backend, safe_mode=True)
        except WorkerDiedLoadingError as death:
            self._report(spec, death.exit)
            raise _load_error(spec.id, first) from None
        if build_id is not None:  # a build without a name would be remembered beyond its replacement
            await asyncio.to_thread(self._safe_modes.add, backend.name, build_id)
        _warn_of_safe_mode(spec, backend)
        return Loaded(client, safe_mode=True)

    def _report(self, spec: ModelSpec, exit_: WorkerExit) -> None:
        _logger.warning(
            "the worker of %s ended by %s while loading; its last lines:\n%s", spec.id, exit_.cause, exit_.stderr_tail
        )
        self._emit(WorkerDied(spec.id, exit_.cause, exit_.last_line))

    async def _launch(self, spec: ModelSpec, mode: Mode, backend: BackendSpec, *, safe_mode: bool) -> WorkerClient:
        settings = self._settings
        environment = worker_environment(os.environ, settings.extra_environment)
        preload = spec.preload if mode is Mode.GENERATE else ()
        load = LoadRequest(spec.id, spec.path, mode, spec.settings, safe_mode, preload, settings.state_dir)
        hello = Hello(cast(str, backend.factory), load)
        return await launch_worker(WorkerCommand(spec.id, environment, settings.argv), hello, settings.launch)

    async def _connect(self, spec: ModelSpec, mode: Mode, backend: BackendSpec) -> ModelClient:
        assert backend.connect is not None
        seconds = self._settings.launch.load_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return cast(ModelClient, await backend.connect(spec, mode))
        except LocalLLMError:
            raise
        except TimeoutError as error:
            message = f"Backend {backend.name!r} did not bring up model {spec.id!r} within {seconds:g} seconds."
            raise ModelLoadError(message) from error
        except Exception as error:
            _logger.exception("backend %s failed to bring up %s", backend.name, spec.id)
            message = f"Backend {backend.name!r} failed to bring up model {spec.id!r}: {type(error).__name__}: {error}"
            raise ModelLoadError(message) from error


def _warn_of_safe_mode(spec: ModelSpec, backend: BackendSpec) -> None:
    mend = f"; to mend it, run: {backend.rebuild_command}" if backend.rebuild_command else ""
    _logger.warning(
        "%s runs in safe mode, slower than it could, because the native build of %s is broken on this CPU%s",
        spec.id,
        backend.name,
        mend,
    )


def _load_error(model_id: str, exit_: WorkerExit) -> ModelLoadError:
    detail: dict[str, object] = (
        {"exit_code": exit_.returncode} if exit_.signal_name is None else {"signal": exit_.signal_name}
    )
    if exit_.killed_for is not None:
        message = f"The worker of model {model_id!r} was killed while loading: {exit_.explanation}"
        return ModelLoadError(message, detail=detail)
    message = f"The worker of model {model_id!r} ended by {exit_.cause} while loading"
    if exit_.last_line:
        message += f": {exit_.last_line}"
    elif exit_.signal_name == "SIGKILL":  # nobody but the kernel sends it without a word
        message += "; the system was most likely out of memory"
    if says_memory(message):
        detail["reason"] = MEMORY_REASON
    return ModelLoadError(message, detail=detail)
