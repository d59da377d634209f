"""All hooks of localllm: synchronous, run at start-up to register objects; what is async is a method on those.

A hook is added only together with a plugin that uses it, and each has a test named after it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Literal, Protocol

import pluggy

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.routing import BaseRoute

    from localllm.context import PluginContext
    from localllm.contract.backend import BackendSpec
    from localllm.contract.endpoint_doc import EndpointDoc
    from localllm.contract.events import Event
    from localllm.contract.fetch import SourceSpec
    from localllm.contract.interception import Interceptor
    from localllm.contract.model import ModelSpec
    from localllm.contract.sessions import SessionStore

PROJECT = "localllm"
ErrorForm = Literal["openai", "detail"]
"""How failures are worded: ``{"error": {"message", "type", "param", "code"}}``, or ``{"detail": message}``."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class RegisterRoute(Protocol):
    """How a plugin adds routes."""

    def __call__(
        self,
        route: BaseRoute,
        *,
        name: str,
        max_body_bytes: int | None = None,
        public: bool = False,
        errors: ErrorForm = "openai",
        doc: EndpointDoc | None = None,
    ) -> None:
        """Add one route. ``name`` is unique. ``max_body_bytes`` replaces ``server.max_body_bytes`` for it.

        ``public`` routes need no API key. ``errors`` is how its failures are worded. What ``doc`` says stands in
        ``/openapi.json``; an alias of a described route has none.
        """
        ...


class RegisterBackend(Protocol):
    """How a plugin adds engines."""

    def __call__(self, backend: BackendSpec) -> None:
        """Add one engine; its name is unique."""
        ...


class RegisterModel(Protocol):
    """How a plugin adds models."""

    def __call__(self, model: ModelSpec) -> None:
        """Add one model; its id is unique."""
        ...


class RegisterSource(Protocol):
    """How a plugin adds places that models are pulled from."""

    def __call__(self, source: SourceSpec) -> None:
        """Add one source; its scheme is unique."""
        ...


class RegisterStore(Protocol):
    """How a plugin adds a place where conversations are kept."""

    def __call__(self, store: SessionStore, *, name: str) -> None:
        """Add one store; its name is unique. ``server.session_store`` chooses among several."""
        ...


class RegisterInterceptor(Protocol):
    """How a plugin gets to see generations."""

    def __call__(self, interceptor: Interceptor) -> None:
        """Add one interceptor. They are asked in the order of their registration."""
        ...


class RegisterCommands(Protocol):
    """How a plugin adds commands."""

    def __call__(self, app: str) -> None:
        """Add ``localllm PLUGIN COMMAND`` for each command of a ``typer.Typer``: ``app`` is "package.module:name".

        It is imported when somebody names the plugin at the command line; ``typer.Context.obj`` is its context.
        """
        ...


class RegisterMiddleware(Protocol):
    """How a plugin adds middleware."""

    def __call__(self, middleware: Middleware, *, position: str = "inner") -> None:
        """Add one ASGI middleware: "outer" before the API key is checked, "inner" right before the routes."""
        ...


# --- configuration: before anything is built ------------------------------------------------------------------------


@hookspec
def localllm_config_section() -> type | None:
    """Return the frozen dataclass that describes ``[plugin.<name>]``, or None when the plugin has no settings.

    Declare its fields with ``localllm.setting(default, help)``.
    """


# --- registration: the configuration is frozen; runs once; no I/O ----------------------------------------------------


@hookspec
def localllm_register_routes(context: PluginContext, register: RegisterRoute) -> None:
    """Call ``register(route, name=...)`` once for each endpoint. Return None."""


@hookspec
def localllm_register_backends(context: PluginContext, register: RegisterBackend) -> None:
    """Call ``register(BackendSpec(...))`` once for each engine. Return None."""


@hookspec
def localllm_register_models(context: PluginContext, register: RegisterModel) -> None:
    """Call ``register(ModelSpec(...))`` for models that no file and no ``[models.define]`` names. Return None."""


@hookspec
def localllm_register_sources(context: PluginContext, register: RegisterSource) -> None:
    """Call ``register(SourceSpec(...))`` once for each place that models can be pulled from. Return None."""


@hookspec
def localllm_register_stores(context: PluginContext, register: RegisterStore) -> None:
    """Call ``register(store, name=...)`` for a place where conversations are kept. Return None.

    It is opened and closed by the plugin's life cycle.
    """


@hookspec
def localllm_register_interceptors(context: PluginContext, register: RegisterInterceptor) -> None:
    """Call ``register(interceptor)`` for an object that is to see every generation of an endpoint. Return None."""


@hookspec
def localllm_register_commands(context: PluginContext, register: RegisterCommands) -> None:
    """Call ``register("package.module:app")`` for commands of ``localllm <plugin>``. Return None."""


@hookspec
def localllm_register_middleware(context: PluginContext, register: RegisterMiddleware) -> None:
    """Call ``register(Middleware(...), position="inner")`` once for each ASGI middleware. Return None."""


# --- life cycle and observation --------------------------------------------------------------------------------------


@hookspec
def localllm_lifespan(context: PluginContext) -> AbstractAsyncContextManager[None] | None:
    """Return a context manager that is entered before the first request and left after the last, or None."""


@hookspec
def localllm_event(context: PluginContext, event: Event) -> None:
    """Look at something that happened. Return None at once; an exception is logged and changes nothing."""
