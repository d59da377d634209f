"""Runs the server: from a checked configuration to an exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING

from localllm.config.load import is_loopback
from localllm.config.schema import Config
from localllm.server.app import build_app
from localllm.server.drain import FAREWELL_SECONDS, Drain
from localllm.server.listener import BindError, Listener, open_socket
from localllm.server.log_setup import set_up_logging
from localllm.server.model_host import ModelHost, default_model

if TYPE_CHECKING:
    from localllm.models.catalog import Catalog
    from localllm.plugin_manager import PluginManager

EXIT_FAILURE = 1
WANTED_OPEN_FILES = 65536

_logger = logging.getLogger("localllm.server")


def serve(config: Config, plugins: PluginManager, catalog: Catalog) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code. ``plugins`` have registered.

    A reason not to start is one sentence on stderr and exit code 1. The first signal drains, the second hurries.
    """
    set_up_logging(config.log)
    for problem in catalog.problems:
        _logger.warning("%s", problem)
    return serve_models(config, plugins, lambda: _registry(config, plugins, catalog))


def serve_models(config: Config, plugins: PluginManager, make_host: Callable[[], ModelHost]) -> int:
    """Do the same with any source of models; ``make_host`` is called inside the event loop."""
    try:
        _refuse_open_door(config)
        _make_state_directory(config)
        listening = open_socket(config.server.host, config.server.port)
    except (BindError, _RefusedError) as error:
        sys.stderr.write(f"localllm: {error}\n")
        return EXIT_FAILURE
    _raise_file_limit()
    with listening, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config, plugins, make_host, listening))
    return 0


def _registry(config: Config, plugins: PluginManager, catalog: Catalog) -> ModelHost:
    from localllm.host.registry import ModelRegistry, RegistrySettings

    models = config.models
    settings = RegistrySettings(
        state_dir=config.state_directory,
        idle_unload_seconds=models.idle_unload_minutes * 60,
        load_timeout_seconds=models.load_timeout_seconds,
        hang_timeout_seconds=models.hang_timeout_seconds,
        max_queue=models.max_queue,
    )
    return ModelRegistry(catalog, plugins.backends, settings, plugins.emit, time.monotonic)


async def _serve(
    config: Config, plugins: PluginManager, make_host: Callable[[], ModelHost], listening: socket.socket
) -> None:
    host = make_host()
    plugins.bind_models(host)
    drain = Drain()
    app = build_app(config, plugins, host, drain=drain)
    listener = Listener(app, listening, logger=_logger)
    stop = asyncio.Event()
    with _signals(stop, drain):
        async with app.router.lifespan_context(app):
            await listener.start()
            _announce(listener.address, host)
            gc.collect()
            gc.freeze()  # what is loaded now stays; collections need not walk it each time
            await stop.wait()
            _logger.info(
                "shutting down; %d open requests may take %g seconds more (a second signal ends them now)",
                drain.open_requests,
                config.server.shutdown_seconds,
            )
            await drain.run(config.server.shutdown_seconds)
            await listener.close(FAREWELL_SECONDS)
    _logger.info("stopped")


@contextmanager
def _signals(stop: asyncio.Event, drain: Drain) -> Iterator[None]:
    """First signal: drain. Second: hurry. After that the default action is back, for whoever insists."""
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]

    def on_signal() -> None:
        if stop.is_set():
            drain.hurry()
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)
        stop.set()

    def from_any_thread(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(on_signal)

    before = {number: signal.signal(number, from_any_thread) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announce(address: tuple[str, int], host: ModelHost) -> None:
    """Say once, on stdout, that requests are answered from now on."""
    name, port = address
    shown = f"[{name}]" if ":" in name else name
    default = default_model(host)
    models = "no chat model yet" if default is None else f"default model {default}"
    sys.stdout.write(f"localllm {version('localllm')} listening on http://{shown}:{port} ({models})\n")
    sys.stdout.flush()


class _RefusedError(Exception):
    """A reason not to start."""


def _refuse_open_door(config: Config) -> None:
    server = config.server
    if not (server.api_keys or server.allow_public_without_key or is_loopback(server.host)):
        message = (
            f"server.host is {server.host!r}, which others can reach, and there are no API keys: "
            "set server.api_keys, or server.allow_public_without_key = true if everybody may use this server"
        )
        raise _RefusedError(message)


def _make_state_directory(config: Config) -> None:
    try:
        config.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.state_directory.chmod(0o700)
    except OSError as error:
        message = f"can't use the state directory {config.state_directory}: {error.strerror or error}"
        raise _RefusedError(message) from None


def _raise_file_limit() -> None:
    """Allow as many connections as the system does without asking for more rights."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop
