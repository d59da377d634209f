"""The app of the configuration that is in force, and how that of another one takes its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from localllm.config.schema import Config
from localllm.models.pulls import Pulls
from localllm.server.app import build_app
from localllm.server.drain import Drain
from localllm.server.log_setup import set_up_logging
from localllm.server.model_host import ModelHost
from localllm.server.reload import ConfigSource, Reloader
from localllm.server.service_manager import ServiceManager

if TYPE_CHECKING:
    from localllm.models.catalog import Catalog
    from localllm.plugin_manager import PluginManager


class ServedApp:
    """Hands each request to the app that is in force when it arrives; those under way stay with theirs.

    So a request's keys, limits and deadlines are all of one configuration, and middleware needs to know nothing of
    reloads: there is a new one. Its model is that of the catalogue at the moment when it is acquired. Plugins, models'
    registry and drain are the same throughout. ``reconfigure`` brings a new configuration to the registry.
    """

    def __init__(
        self,
        config: Config,
        plugins: PluginManager,
        host: ModelHost,
        drain: Drain,
        *,
        source: ConfigSource | None = None,
        reconfigure: Callable[[Config, Catalog], None] = lambda config, catalog: None,
        manager: ServiceManager,
        pulls: Pulls | None = None,
    ) -> None:
        self._config = config
        self._plugins = plugins
        self._host = host
        self._drain = drain
        self._pulls = pulls
        self._reconfigure = reconfigure
        self._reloader = None if source is None else Reloader(config, source, self._put_in_force, manager)
        self.first = self._build(config)  # its lifespan is the server's
        self._current: ASGIApp = self.first

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._config if self._reloader is None else self._reloader.config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a request in the app of this moment."""
        await self._current(scope, receive, send)

    def ask_for_reload(self) -> None:
        """Have :meth:`run` reload the configuration soon."""
        if self._reloader is not None:
            self._reloader.ask()

    async def run(self) -> None:
        """Reload when asked and when the file changes, until cancelled."""
        if self._reloader is not None:
            await self._reloader.run()

    def _build(self, config: Config) -> Starlette:
        reload = None if self._reloader is None else self._reloader.reload
        return build_app(config, self._plugins, self._host, drain=self._drain, reload=reload, pulls=self._pulls)

    def _put_in_force(self, config: Config, catalog: Catalog) -> None:
        app = self._build(config)
        app.middleware_stack = app.build_middleware_stack()  # now: what fails must do so before anything has changed
        self._reconfigure(config, catalog)
        set_up_logging(config.log)
        self._current = app
