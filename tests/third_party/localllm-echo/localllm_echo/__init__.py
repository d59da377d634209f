"""A plugin that repeats what it is told: ``POST /v1/echo`` and an engine named ``echo``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from localllm import BackendSpec, InvalidRequestError, Mode, ModelSpec, PluginContext, hookimpl, read_json, setting


@dataclass(frozen=True, slots=True)
class EchoSettings:
    """``[plugin.echo]``."""

    prefix: str = setting("", "Put before every echo of the endpoint.")
    context_length: int = setting(512, "Tokens that the engine takes, prompt and answer together.", minimum=8)


@hookimpl
def localllm_config_section() -> type:
    """Return the settings, which the engine's models may give anew."""
    return EchoSettings


@hookimpl
def localllm_register_routes(context: PluginContext, register: Callable[..., None]) -> None:
    """Add the endpoint."""

    async def echo(request: Request) -> JSONResponse:
        text = (await read_json(request)).get("text")
        if not isinstance(text, str):
            raise InvalidRequestError("text must be a string", param="text")
        return JSONResponse({"text": context.config.prefix + text})

    register(Route("/v1/echo", echo, methods=["POST"]), name="echo", max_body_bytes=64 * 1024)


@hookimpl
def localllm_register_backends(context: PluginContext, register: Callable[..., None]) -> None:
    """Add the engine; its factory is imported in the worker process only."""
    register(
        BackendSpec(
            name="echo", modes=frozenset({Mode.GENERATE}), factory="localllm_echo.engine:load", settings=EchoSettings
        )
    )


@hookimpl
def localllm_register_models(context: PluginContext, register: Callable[..., None]) -> None:
    """Add a model that needs no file."""
    register(ModelSpec(id="echo", backend="echo", settings={"context_length": context.config.context_length}))
