"""Conversations that outlive requests and restarts: a store for them, in SQLite, and what uses it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from localllm import PluginContext, RegisterCommands, RegisterInterceptor, RegisterRoute, RegisterStore, hookimpl

from .interceptor import SessionInterceptor
from .routes import register_routes
from .settings import SessionsSettings
from .sqlite_store import SqliteStore, make_store


@hookimpl
def localllm_config_section() -> type:
    """Return the settings of ``[plugin.sessions]``."""
    return SessionsSettings


@hookimpl
def localllm_register_routes(context: PluginContext, register: RegisterRoute) -> None:
    """Add ``/v1/sessions`` and what is below it."""
    register_routes(context, register)


@hookimpl
def localllm_register_stores(context: PluginContext, register: RegisterStore) -> None:
    """Add the store; nothing is opened yet."""
    register(make_store(context), name="sqlite")


@hookimpl
def localllm_register_interceptors(context: PluginContext, register: RegisterInterceptor) -> None:
    """Put history before the prompts of requests that belong to a session."""
    register(SessionInterceptor(context))


@hookimpl
def localllm_register_commands(context: PluginContext, register: RegisterCommands) -> None:
    """Add ``localllm sessions backup``."""
    register("localllm_sessions.commands:app")


@hookimpl
def localllm_lifespan(context: PluginContext) -> AbstractAsyncContextManager[None] | None:
    """Keep the store open from before the first request until after the last; not when another one is used."""
    store = context.session_store()
    return store.opened() if isinstance(store, SqliteStore) else None
