"""Lets everything under ``/v1`` be asked below a second base path too, where clients of lllms look for it."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

SECOND_BASE = "/openai"
_VERSION = "/v1"


class BasePath:
    """Takes ``/openai`` away from ``/openai/v1/...`` before anybody looks: router, limits, keys and log see one path.

    The prefix counts as it stands, once: written with escapes, or twice, it leads nowhere.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app on the path without its prefix; the scope itself changes, since others read it later."""
        if scope["type"] == "http" and _is_asked(scope):
            scope["path"] = scope["path"].removeprefix(SECOND_BASE)
            if scope.get("raw_path"):
                scope["raw_path"] = scope["raw_path"].removeprefix(SECOND_BASE.encode())
        await self.app(scope, receive, send)


def _is_asked(scope: Scope) -> bool:
    """Say whether the prefix is there as it stands: what a proxy took for another path must not become this one."""
    raw: bytes | None = scope.get("raw_path")
    return _is_below(scope["path"]) and (raw is None or _is_below(raw.partition(b"?")[0].decode("latin-1")))


def _is_below(path: str) -> bool:
    rest = path.removeprefix(SECOND_BASE)
    return rest != path and (rest == _VERSION or rest.startswith(f"{_VERSION}/"))
