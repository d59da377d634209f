"""What plugins registered, with who registered it: names are unique, and each thing has the right type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from localllm.contract.backend import BackendSpec
from localllm.contract.endpoint_doc import EndpointDoc
from localllm.contract.fetch import SourceSpec
from localllm.contract.interception import Interceptor
from localllm.contract.model import ModelSpec
from localllm.contract.sessions import SessionStore
from localllm.hookspecs import ErrorForm
from localllm.plugin_discovery import PluginError, PluginSource

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.routing import BaseRoute

POSITIONS = ("outer", "inner")

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+")


@dataclass(frozen=True, slots=True)
class RegisteredRoute:
    """A plugin's route. ``max_body_bytes`` None means ``server.max_body_bytes``."""

    route: BaseRoute
    name: str
    max_body_bytes: int | None
    public: bool
    plugin: PluginSource
    errors: ErrorForm = "openai"
    doc: EndpointDoc | None = None


@dataclass(frozen=True, slots=True)
class RegisteredMiddleware:
    """A plugin's middleware; "outer" comes before the API key is checked, "inner" right before the routes."""

    middleware: Middleware
    position: str
    plugin: str


class Registry:
    """Fills up while plugins register. All errors are :class:`PluginError` and name the plugin."""

    def __init__(self) -> None:
        self.routes: dict[str, RegisteredRoute] = {}
        self.backends: dict[str, tuple[BackendSpec, PluginSource]] = {}
        self.models: dict[str, tuple[ModelSpec, PluginSource]] = {}
        self.sources: dict[str, tuple[SourceSpec, PluginSource]] = {}
        self.stores: dict[str, tuple[SessionStore, PluginSource]] = {}
        self.interceptors: list[Interceptor] = []
        self.commands: dict[str, str] = {}
        self.middleware: list[RegisteredMiddleware] = []
        self._route_sources: dict[str, PluginSource] = {}
        self._paths: dict[tuple[str, str], str] = {}

    @contextmanager
    def registrar(self, kind: str, source: PluginSource) -> Iterator[Callable[..., None]]:
        """Lend one plugin the ``register`` callable of one hook; kept and called later, it raises."""
        adders: dict[str, Callable[..., None]] = {
            "routes": self._add_route,
            "backends": self._add_backend,
            "models": self._add_model,
            "sources": self._add_source,
            "stores": self._add_store,
            "interceptors": self._add_interceptor,
            "commands": self._add_commands,
            "middleware": self._add_middleware,
        }
        add = adders[kind]
        is_open = True

        def register(thing: Any, **options: Any) -> None:  # noqa: ANN401
            if not is_open:
                raise source.error(f"registered {kind} after the server had started; do it inside the hook")
            try:
                add(source, thing, **options)
            except TypeError as error:
                raise source.error(f"register() of {kind}: {str(error).replace('Registry._add_', '')}") from None

        yield register
        is_open = False

    def _add_route(
        self,
        source: PluginSource,
        route: BaseRoute,
        *,
        name: str,
        max_body_bytes: int | None = None,
        public: bool = False,
        errors: ErrorForm = "openai",
        doc: EndpointDoc | None = None,
    ) -> None:
        if errors not in get_args(ErrorForm):
            raise source.error(f"registered a route with errors {errors!r}; use {' or '.join(get_args(ErrorForm))}")
        if not (hasattr(route, "matches") and hasattr(route, "handle")):
            raise source.error(f"registered {route!r} as a route; use starlette.routing.Route(path, handler)")
        if doc is not None and not isinstance(doc, EndpointDoc):
            raise source.error(f"described the route {name!r} by {doc!r}; use localllm.EndpointDoc(...)")
        if doc is not None and not getattr(route, "methods", None):
            raise source.error(f"described {route!r}, but only a Route with a path and methods can have a doc")
        if name in self._route_sources:
            raise source.error(f"the route name {name!r} is already used by {self._route_sources[name]}")
        path: str | None = getattr(route, "path", None)
        for method in sorted(getattr(route, "methods", None) or ["*"]) if path is not None else []:
            owner = self._paths.setdefault((str(path), method), name)
            if owner != name:
                raise source.error(f"{method} {path} is already served by {self._route_sources[owner]}")
        self._route_sources[name] = source
        self.routes[name] = RegisteredRoute(route, name, max_body_bytes, public, source, errors, doc)

    def _add_backend(self, source: PluginSource, backend: BackendSpec) -> None:
        if not isinstance(backend, BackendSpec):
            raise source.error(f"registered {backend!r} as a backend; use localllm.BackendSpec(...)")
        if backend.name in self.backends:
            raise source.error(f"the backend {backend.name!r} is already brought by {self.backends[backend.name][1]}")
        self.backends[backend.name] = (backend, source)

    def _add_model(self, source: PluginSource, model: ModelSpec) -> None:
        if not isinstance(model, ModelSpec):
            raise source.error(f"registered {model!r} as a model; use localllm.ModelSpec(...)")
        if model.id in self.models:
            raise source.error(f"the model {model.id!r} is already brought by {self.models[model.id][1]}")
        if model.backend not in self.backends:
            raise source.error(f"its model {model.id!r} needs the backend {model.backend!r}, which no plugin brings")
        self.models[model.id] = (model, source)

    def _add_source(self, source: PluginSource, spec: SourceSpec) -> None:
        if not isinstance(spec, SourceSpec):
            raise source.error(f"registered {spec!r} as a source of models; use localllm.SourceSpec(...)")
        if not _SCHEME.fullmatch(spec.scheme):
            raise source.error(f"registered the scheme {spec.scheme!r}; use lower-case letters, digits, + . and -")
        if spec.scheme in self.sources:
            raise source.error(f"the source {spec.scheme!r} is already brought by {self.sources[spec.scheme][1]}")
        self.sources[spec.scheme] = (spec, source)

    def _add_store(self, source: PluginSource, store: SessionStore, *, name: str) -> None:
        missing = _missing_methods(SessionStore, store)
        if missing:
            raise source.error(f"registered {store!r} as a store, but it has no {', '.join(missing)}")
        if name in self.stores:
            raise source.error(f"the store {name!r} is already brought by {self.stores[name][1]}")
        self.stores[name] = (store, source)

    def choose_store(self, name: str) -> SessionStore | None:
        """Return the store of this name, or the first one where ``name`` is empty; None when there is none.

        Raises ``PluginError``.
        """
        if name and name not in self.stores:
            known = ", ".join(self.stores) or "none"
            message = f"server.session_store is {name!r}, which no enabled plugin brings; there are: {known}"
            raise PluginError(message)
        chosen = self.stores.get(name) or next(iter(self.stores.values()), None)
        return None if chosen is None else chosen[0]

    def _add_interceptor(self, source: PluginSource, interceptor: Interceptor) -> None:
        if _missing_methods(Interceptor, interceptor):
            raise source.error(f"registered {interceptor!r} as an interceptor; it needs an async method before(asked)")
        self.interceptors.append(interceptor)

    def _add_commands(self, source: PluginSource, app: str) -> None:
        if not (isinstance(app, str) and _TARGET.fullmatch(app)):
            raise source.error(f"registered {app!r} as commands; name a typer.Typer as 'package.module:app'")
        if source.name in self.commands:
            raise source.error(f"registered commands twice; put those of {app} into {self.commands[source.name]}")
        self.commands[source.name] = app

    def _add_middleware(self, source: PluginSource, middleware: Middleware, *, position: str = "inner") -> None:
        if not (hasattr(middleware, "cls") and hasattr(middleware, "kwargs")):
            raise source.error(f"registered {middleware!r} as middleware; use starlette.middleware.Middleware(class)")
        if position not in POSITIONS:
            raise source.error(f"registered middleware at position {position!r}; use {' or '.join(POSITIONS)}")
        self.middleware.append(RegisteredMiddleware(middleware, position, source.name))


def _missing_methods(protocol: type, thing: object) -> list[str]:
    """Return the methods of ``protocol`` that ``thing`` lacks."""
    names = [name for name, value in vars(protocol).items() if callable(value) and not name.startswith("_")]
    return [name for name in names if not callable(getattr(thing, name, None))]
