"""The table of all routes with what middleware must know of each before the router runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from localllm.contract.endpoint_doc import EndpointDoc
from localllm.hookspecs import ErrorForm

_SCOPE_KEY = "localllm.route"


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """One route. ``probe`` routes answer while the server drains and don't fill the log."""

    route: BaseRoute
    name: str
    max_body_bytes: int | None = None
    public: bool = False
    probe: bool = False
    errors: ErrorForm = "openai"
    doc: EndpointDoc | None = None


class _Found(NamedTuple):
    path: str
    method: str
    entry: RouteEntry | None


class RouteTable:
    """Finds the entry that will serve a request, by asking the routes themselves, in the router's order.

    Middleware that decides by route (keys, limits) must never read a path otherwise than the router does: that gap is
    what path-confusion attacks live in.
    """

    def __init__(self, entries: Sequence[RouteEntry]) -> None:
        self.entries = tuple(entries)

    def find(self, scope: Scope) -> RouteEntry | None:
        """Return the first full match, or None: no such path, or not with this method. Remembered in the scope."""
        found = scope.get(_SCOPE_KEY)
        if not isinstance(found, _Found) or (found.path, found.method) != (scope["path"], scope["method"]):
            entry = next((one for one in self.entries if one.route.matches(scope)[0] is Match.FULL), None)
            found = _Found(scope["path"], scope["method"], entry)
            scope[_SCOPE_KEY] = found
        return found.entry

    def methods(self, scope: Scope) -> list[str]:
        """Return what the path of a request can be asked by: by all routes that have it, not the first alone."""
        matching = [one.route for one in self.entries if one.route.matches(scope)[0] is not Match.NONE]
        return sorted({method for route in matching for method in getattr(route, "methods", None) or ()})

    def error_form(self, scope: Scope) -> ErrorForm:
        """Return how failures of a request are worded, also one that a path of ours can't be asked by its method."""
        entry = self.find(scope)
        if entry is None:
            entry = next((one for one in self.entries if one.route.matches(scope)[0] is not Match.NONE), None)
        return "openai" if entry is None else entry.errors
