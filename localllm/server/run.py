"""Runs the server: from a checked configuration to an exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from localllm.config.load import is_loopback
from localllm.config.schema import Config
from localllm.models.pulls import Pulls
from localllm.server.arriving_models import ArrivingModels
from localllm.server.disconnect import end_task
from localllm.server.drain import FAREWELL_SECONDS, Drain
from localllm.server.listener import BindError, Listener, open_socket
from localllm.server.log_setup import set_up_logging
from localllm.server.model_host import ModelHost, default_model
from localllm.server.pulling import pull_options
from localllm.server.reload import ConfigSource
from localllm.server.served_app import ServedApp
from localllm.server.service_manager import ServiceManager
from localllm.server.signals import handle_signals

if TYPE_CHECKING:
    from localllm.host.registry import RegistrySettings
    from localllm.models.catalog import Catalog
    from localllm.plugin_manager import PluginManager

EXIT_FAILURE = 1
WANTED_OPEN_FILES = 65536

_logger = logging.getLogger("localllm.server")


def serve(config: Config, plugins: PluginManager, catalog: Catalog, source: ConfigSource | None = None) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code. ``plugins`` have registered.

    A reason not to start is one sentence on stderr and exit code 1. The first signal drains, the second hurries.
    ``source`` is where a changed configuration comes from; without one the server keeps what it was started with.
    """
    set_up_logging(config.log)
    for problem in catalog.problems:
        _logger.warning("%s", problem)
    options = pull_options(config, plugins, for_clients=True)
    make_host = partial(_registry, config, plugins, catalog)
    return serve_models(config, plugins, make_host, source, lambda: Pulls(options, on_arrival=catalog.look), catalog)


def serve_models(
    config: Config,
    plugins: PluginManager,
    make_host: Callable[[], ModelHost],
    source: ConfigSource | None = None,
    make_pulls: Callable[[], Pulls] | None = None,
    catalog: Catalog | None = None,
) -> int:
    """Do the same with any source of models; ``make_host`` and ``make_pulls`` are called inside the event loop.

    What ``catalog`` says is to be fetched is fetched by these pulls.
    """
    try:
        _refuse_open_door(config)
        _make_state_directory(config)
        listening = open_socket(config.server.host, config.server.port)
    except (BindError, _RefusedError) as error:
        sys.stderr.write(f"localllm: {error}\n")
        return EXIT_FAILURE
    _raise_file_limit()
    with listening, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config, plugins, make_host, listening, source, make_pulls, catalog))
    return 0


def registry_settings(config: Config) -> RegistrySettings:
    """Return what the registry of models takes from the configuration."""
    from localllm.host.registry import RegistrySettings

    models = config.models
    return RegistrySettings(
        state_dir=config.state_directory,
        idle_unload_seconds=models.idle_unload_minutes * 60,
        load_timeout_seconds=models.load_timeout_seconds,
        hang_timeout_seconds=models.hang_timeout_seconds,
        max_queue=models.max_queue,
        max_loaded=models.max_loaded,
        memory_limit_bytes=int(models.memory_limit_gib * 2**30),
    )


def _registry(config: Config, plugins: PluginManager, catalog: Catalog) -> ModelHost:
    from localllm.host.registry import ModelRegistry

    return ModelRegistry(catalog, plugins.backends, registry_settings(config), plugins.emit, time.monotonic)


def _reconfigure(
    registry: ModelHost, host: ModelHost, plugins: PluginManager, config: Config, catalog: Catalog
) -> None:
    from localllm.host.registry import ModelRegistry

    if isinstance(host, ArrivingModels):
        options = pull_options(config, plugins, for_clients=True)
        host.reconfigure(options, catalog.look, wait=config.models.wait_for_pull)
    if isinstance(registry, ModelRegistry):
        registry.reconfigure(catalog, registry_settings(config))
    if isinstance(host, ArrivingModels):
        host.fetch(catalog.arriving, catalog.configured_defaults)


async def _serve(
    config: Config,
    plugins: PluginManager,
    make_host: Callable[[], ModelHost],
    listening: socket.socket,
    source: ConfigSource | None,
    make_pulls: Callable[[], Pulls] | None,
    catalog: Catalog | None,
) -> None:
    registry = make_host()
    pulls = make_pulls() if make_pulls else None
    host = ArrivingModels(registry, pulls, wait=config.models.wait_for_pull) if pulls else registry
    if isinstance(host, ArrivingModels) and catalog is not None:
        host.fetch(catalog.arriving, catalog.configured_defaults)
    plugins.bind_models(host)
    stop, drain, manager = asyncio.Event(), Drain(), ServiceManager(os.environ)
    reconfigure = partial(_reconfigure, registry, host, plugins)
    served = ServedApp(
        config, plugins, host, drain, source=source, reconfigure=reconfigure, manager=manager, pulls=pulls
    )
    listener = Listener(served, listening, logger=_logger)
    with handle_signals(stop, drain, served.ask_for_reload if source else None):
        async with (
            served.first.router.lifespan_context(served.first),
            _background(served.run(), manager.keep_alive(), host.preload(_names_to_preload(config))),
        ):
            await listener.start()
            manager.status = _announce(listener.address, host)
            manager.ready()
            gc.collect()
            gc.freeze()  # what is loaded now stays; collections need not walk it each time
            await stop.wait()
            manager.stopping()
            grace_seconds = served.config.server.shutdown_seconds
            _logger.info(
                "shutting down; %d open requests may take %g seconds more (a second signal ends them now)",
                drain.open_requests,
                grace_seconds,
            )
            await drain.run(grace_seconds)
            await listener.close(FAREWELL_SECONDS)
    _logger.info("stopped")


def _names_to_preload(config: Config) -> list[str | None]:
    preload = config.models.preload
    return [*preload] if isinstance(preload, list) else [None] if preload else []


@asynccontextmanager
async def _background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run helpers beside the block, and end them with it."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            await end_task(task)


def _announce(address: tuple[str, int], host: ModelHost) -> str:
    """Say once, on stdout, that requests are answered from now on; return where."""
    name, port = address
    shown = f"[{name}]" if ":" in name else name
    default = default_model(host)
    models = "no chat model yet" if default is None else f"default model {default}"
    listening = f"listening on http://{shown}:{port}"
    sys.stdout.write(f"localllm {version('localllm')} {listening} ({models})\n")
    sys.stdout.flush()
    return listening


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
