"""All hooks of localllm: synchronous, run at start-up to register objects; what is async is a method on those.

A hook is added only together with a plugin that uses it, and each has a test named after it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

import pluggy

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.routing import BaseRoute

    from localllm.context import PluginContext
    from localllm.contract.backend import BackendSpec
    from localllm.contract.events import Event
    from localllm.contract.fetch import SourceSpec
    from localllm.contract.model import ModelSpec

PROJECT = "localllm"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class RegisterRoute(Protocol):
    """How a plugin adds routes."""

    def __call__(self, route: BaseRoute, *, name: str, max_body_bytes: int | None = None, public: bool = False) -> None:
        """Add one route. ``name`` is unique. ``max_body_bytes`` replaces ``server.max_body_bytes`` for it.

        ``public`` routes need no API key.
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
def localllm_register_middleware(context: PluginContext, register: RegisterMiddleware) -> None:
    """Call ``register(Middleware(...), position="inner")`` once for each ASGI middleware. Return None."""


# --- life cycle and observation --------------------------------------------------------------------------------------


@hookspec
def localllm_lifespan(context: PluginContext) -> AbstractAsyncContextManager[None] | None:
    """Return a context manager that is entered before the first request and left after the last, or None."""


@hookspec
def localllm_event(context: PluginContext, event: Event) -> None:
    """Look at something that happened. Return None at once; an exception is logged and changes nothing."""
