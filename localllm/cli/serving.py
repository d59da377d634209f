"""``localllm serve``: from its arguments to the running server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from localllm.cli.startup import prepare
from localllm.contract.errors import ModelFileError
from localllm.models.gguf import read_header


def run_server(
    model: Path | None, config_path: Path | None, host: str | None, port: int | None, overrides: Sequence[str]
) -> int:
    """Serve until a signal comes; return the exit code.

    Raises ``ConfigError``, ``PluginError``, and ``ModelFileError`` when ``model`` can't be served.
    """
    named = {"server.host": host, "server.port": port}
    flags = [*overrides, *(f"{key}={value}" for key, value in named.items() if value is not None)]
    if model is not None:
        role = read_header(model).role
        if role != "model":
            message = f"{model.name}: it is no model by itself, but of type {role!r}"
            raise ModelFileError(message)
    startup = prepare(config_path, flags, files=[model] if model is not None else [])
    try:
        startup.catalog.create_folders()
    except OSError as error:
        typer.echo(f"{error.filename}: can't be created ({error.strerror}); models are not looked for there", err=True)

    from localllm.server.run import serve

    return serve(startup.config, startup.plugins, startup.catalog)
