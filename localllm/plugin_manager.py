"""Loads the enabled plugins and calls their hooks, one plugin at a time and in the order of the configuration."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import IntEnum
from importlib.metadata import EntryPoint
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pluggy

from localllm import hookspecs
from localllm.config.convert import section_fields
from localllm.config.schema import Config
from localllm.context import LaterModels, ModelAccess, PluginContext
from localllm.contract.backend import BackendSpec
from localllm.contract.fetch import SourceSpec
from localllm.contract.interception import Interceptor
from localllm.contract.model import ModelSpec
from localllm.contract.sessions import SessionStore
from localllm.plugin_discovery import PluginError, PluginSource, find_plugins, import_plugin, select_plugins
from localllm.plugin_registry import RegisteredMiddleware, RegisteredRoute, Registry

if TYPE_CHECKING:
    from localllm.contract.events import Event

__all__ = ["PluginError", "PluginInfo", "PluginManager", "load_plugins"]

_PREFIX = f"{hookspecs.PROJECT}_"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One line of ``localllm plugins``. ``hooks`` is empty for plugins that are not enabled: they are not imported."""

    name: str
    distribution: str
    version: str
    enabled: bool
    hooks: tuple[str, ...] = ()


class _LifeCycle(AbstractAsyncContextManager[None]):
    """A plugin's life cycle under its name: what fails at the start stops it, what fails at the end is logged."""

    def __init__(self, source: PluginSource, cycle: AbstractAsyncContextManager[None], logger: logging.Logger) -> None:
        self._source = source
        self._cycle = cycle
        self._logger = logger

    async def __aenter__(self) -> None:
        try:
            await self._cycle.__aenter__()
        except Exception as error:
            raise self._source.error(f"its life cycle raised {type(error).__name__}: {error}") from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._cycle.__aexit__(kind, error, trace)
        except Exception:
            self._logger.exception("%s failed at the end of its life cycle", self._source)


class _Phase(IntEnum):
    """What may happen; phases only go forward."""

    LOADED = 1  # sections are known
    REGISTERED = 2  # the configuration is frozen, routes, backends and models are known


class _Pluggy(pluggy.PluginManager):
    """pluggy, refusing what it would pass over in silence."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """Look at attributes with our prefix only, so that no property of a plugin is ever evaluated."""
        if not name.startswith(_PREFIX):
            return None
        options = super().parse_hookimpl_opts(plugin, name)
        method = inspect.getattr_static(plugin, name)
        if options is None:
            if inspect.isfunction(method):
                message = f"{name} lacks the @hookimpl mark, so that it would never be called"
                raise pluggy.PluginValidationError(plugin, message)
            return None
        if options["wrapper"] or options["hookwrapper"]:
            message = f"{name} is a wrapper; hooks of localllm can't be wrapped"
            raise pluggy.PluginValidationError(plugin, message)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            message = f"{name} is async; hooks are synchronous and register objects, whose methods may be async"
            raise pluggy.PluginValidationError(plugin, message)
        return options


def load_plugins(
    enabled: Sequence[str] | None = None, *, entry_points: Iterable[EntryPoint] | None = None
) -> PluginManager:
    """Import the enabled plugins in order (None: all built-in ones) and ask for their settings' sections.

    ``entry_points`` replaces the installed ones, for tests. Raises :class:`PluginError`.
    """
    available = find_plugins(entry_points)
    return PluginManager(select_plugins(enabled, available), available)


class PluginManager:
    """The enabled plugins of one server. Nothing else calls hooks.

    Built by :func:`load_plugins`. Then :attr:`sections` say what the configuration may hold, :meth:`register` freezes
    it and collects routes, backends, models and middleware, and :meth:`bind_models` opens ``context.models``.
    """

    def __init__(self, selected: Sequence[PluginSource], available: Sequence[PluginSource]) -> None:
        self._selected = tuple(selected)
        self._available = tuple(available)
        self._pluggy = _Pluggy(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self._modules = {source.name: self._import(source) for source in self._selected}
        self._hooks = {source.name: self._callers(source.name) for source in self._selected}
        self._contexts: dict[str, PluginContext] = {}
        self._models = LaterModels()
        self._registry = Registry()
        self._store: SessionStore | None = None
        self._phase = _Phase.LOADED
        self._sections = self._ask_sections()

    @property
    def sections(self) -> Mapping[str, type]:
        """The dataclass of ``[plugin.<name>]`` for each enabled plugin that has settings."""
        return self._sections

    @property
    def installed(self) -> tuple[str, ...]:
        """Names of all installed plugins, enabled or not."""
        return tuple(dict.fromkeys(source.name for source in self._available))

    @property
    def routes(self) -> tuple[RegisteredRoute, ...]:
        """Routes in the order in which they were registered. Only after :meth:`register`, as the next ones."""
        return tuple(self._registered().routes.values())

    @property
    def middleware(self) -> tuple[RegisteredMiddleware, ...]:
        """Middleware in the order in which it was registered."""
        return tuple(self._registered().middleware)

    @property
    def backends(self) -> Mapping[str, BackendSpec]:
        """Engines by name."""
        return {name: backend for name, (backend, _) in self._registered().backends.items()}

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """Models that plugins registered."""
        return tuple(model for model, _ in self._registered().models.values())

    @property
    def sources(self) -> Mapping[str, SourceSpec]:
        """Places that models are pulled from, by scheme."""
        return {scheme: spec for scheme, (spec, _) in self._registered().sources.items()}

    @property
    def source_owners(self) -> Mapping[str, str]:
        """For each scheme the plugin that brought it."""
        return {scheme: source.name for scheme, (_, source) in self._registered().sources.items()}

    @property
    def interceptors(self) -> tuple[Interceptor, ...]:
        """What sees every generation, in the order of registration."""
        return tuple(self._registered().interceptors)

    def commands_of(self, name: str) -> tuple[str, PluginContext] | None:
        """Return where the ``typer.Typer`` of a plugin's commands is, and the plugin's context; None without any."""
        target = self._registered().commands.get(name)
        return (target, self._contexts[name]) if target else None

    def session_store(self) -> SessionStore | None:
        """Return where conversations are kept: the store that the configuration names, else the first one."""
        return self._store

    @property
    def backend_owners(self) -> Mapping[str, str]:
        """For each engine the plugin that brought it."""
        return {name: source.name for name, (_, source) in self._registered().backends.items()}

    def register(self, config: Config, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Give each plugin its context and let it register. Runs once; ``clock`` is monotonic, in seconds.

        Raises :class:`PluginError`: an exception out of a hook, a name used twice, something of a wrong type.
        """
        if self._phase is not _Phase.LOADED:
            message = "plugins register once, and they have"
            raise RuntimeError(message)
        registry = self._registry
        for source in self._selected:
            self._contexts[source.name] = PluginContext(
                name=source.name,
                config=self._settings(config, source.name),
                logger=logging.getLogger(f"{hookspecs.PROJECT}.plugin.{source.name}"),
                data_dir=config.state_directory / "plugins" / source.name,
                clock=clock,
                models=self._models,
                session_store=self.session_store,
                interceptors=lambda: self.interceptors,
            )
        for kind in ("routes", "backends", "models", "sources", "stores", "interceptors", "commands", "middleware"):
            for source in self._selected:
                with registry.registrar(kind, source) as register:
                    self._call(source, f"localllm_register_{kind}", register=register)
        self._store = registry.choose_store(config.server.session_store)
        self._phase = _Phase.REGISTERED

    def _settings(self, config: Config, name: str) -> Any:  # noqa: ANN401  # the plugin's own dataclass
        """Return a plugin's section, with all defaults where the configuration was made without it."""
        section = self._sections.get(name)
        return config.plugin.get(name) or (None if section is None else section())

    def bind_models(self, access: ModelAccess) -> None:
        """Open ``context.models`` of all plugins."""
        self._registered()
        self._models.access = access

    def lifespans(self) -> list[tuple[str, AbstractAsyncContextManager[None]]]:
        """Return the plugins' life cycles by name, to be entered in this order and left in the reverse one."""
        self._registered()
        found: list[tuple[str, AbstractAsyncContextManager[None]]] = []
        for source in self._selected:
            cycle = self._call(source, "localllm_lifespan")
            if cycle is None:
                continue
            if not hasattr(type(cycle), "__aenter__"):
                sentence = (
                    f"localllm_lifespan returned {cycle!r}, not an async context manager; "
                    f"write it with contextlib.asynccontextmanager"
                )
                raise source.error(sentence)
            found.append((source.name, _LifeCycle(source, cycle, self._contexts[source.name].logger)))
        return found

    def emit(self, event: Event) -> None:
        """Show an event to all plugins. A plugin's exception is logged with its name and changes nothing."""
        for source in self._selected:
            caller = self._hooks[source.name].get("localllm_event")
            if caller is None:
                continue
            context = self._contexts[source.name]
            try:
                caller(context=context, event=event)
            except Exception:
                context.logger.exception("%s failed at %s", source, type(event).__name__)

    def describe(self) -> list[PluginInfo]:
        """Return what is installed: the enabled plugins in their order, then the others."""
        enabled = [
            PluginInfo(source.name, source.distribution, source.version, True, tuple(sorted(self._hooks[source.name])))
            for source in self._selected
        ]
        others = [source for source in self._available if source not in self._selected]
        return enabled + [PluginInfo(source.name, source.distribution, source.version, False) for source in others]

    def _import(self, source: PluginSource) -> Any:  # noqa: ANN401
        module = import_plugin(source)
        try:
            if self._pluggy.is_registered(module):
                raise source.error(f"{source.entry_point.value} is already loaded under another name")
            self._pluggy.register(module, name=source.name)
            self._pluggy.check_pending()
        except pluggy.PluginValidationError as error:
            raise source.error(" ".join(str(error).split())) from None
        return module

    def _callers(self, name: str) -> dict[str, Callable[..., Any]]:
        """Return the plugin's hooks, each as a callable that reaches this plugin alone."""
        others = [module for other, module in self._modules.items() if other != name]
        callers = self._pluggy.get_hookcallers(self._modules[name]) or []
        return {caller.name: self._pluggy.subset_hook_caller(caller.name, others) for caller in callers}

    def _call(self, source: PluginSource, hook: str, **arguments: Any) -> Any:  # noqa: ANN401
        """Call one hook of one plugin; None when it has none."""
        caller = self._hooks[source.name].get(hook)
        if caller is None:
            return None
        context = {"context": self._contexts[source.name]} if source.name in self._contexts else {}
        try:
            results = caller(**context, **arguments)
        except PluginError:
            raise
        except Exception as error:
            sentence = f"{hook} raised {type(error).__name__}: {error}"
            raise source.error(sentence) from error
        if hook.startswith("localllm_register_") and results:
            sentence = f"{hook} returned {results[0]!r}; call register(...) for it and return nothing"
            raise source.error(sentence)
        return results[0] if results else None

    def _ask_sections(self) -> dict[str, type]:
        sections: dict[str, type] = {}
        for source in self._selected:
            section = self._call(source, "localllm_config_section")
            if section is None:
                continue
            try:
                section_fields(section)
            except TypeError as error:
                raise source.error(f"localllm_config_section: {error}") from None
            sections[source.name] = section
        return sections

    def _registered(self) -> Registry:
        if self._phase is not _Phase.REGISTERED:
            message = "plugins have not registered yet; call register(config) first"
            raise RuntimeError(message)
        return self._registry
