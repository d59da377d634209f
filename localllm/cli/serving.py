"""``localllm serve``: from its arguments to the running server."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import typer

from localllm.cli.startup import build_catalog, live_plugins, prepare, read_again
from localllm.config.layers import DEFAULT_FILE
from localllm.config.schema import Config
from localllm.contract.errors import ModelFileError
from localllm.models.catalog import Catalog
from localllm.models.gguf import read_header


def server_flags(host: str | None, port: int | None, overrides: Sequence[str]) -> list[str]:
    """Return the settings of a command line as one list: what ``--host`` and ``--port`` say counts most."""
    named = {"server.host": host, "server.port": port}
    return [*overrides, *(f"{key}={value}" for key, value in named.items() if value is not None)]


def run_server(model: Path | None, config_path: Path | None, flags: Sequence[str], *, until_eof: bool = False) -> int:
    """Serve until a signal comes, or ``until_eof`` of stdin; return the exit code.

    Raises ``ConfigError``, ``PluginError``, and ``ModelFileError`` when ``model`` can't be served.
    """
    if model is not None:
        model = model.absolute()
        role = read_header(model).role
        if role != "model":
            message = f"{model.name}: it is no model by itself, but of type {role!r}"
            raise ModelFileError(message)
    from localllm.server.reload import ConfigSource, file_stamp
    from localllm.server.run import serve

    watched = (config_path or Path(DEFAULT_FILE)).absolute()
    stamp = file_stamp(watched)  # before it is read: a change that comes meanwhile must not be missed
    files = [model] if model is not None else []
    startup = prepare(config_path, flags, files=files)
    plugins = startup.plugins
    try:
        startup.catalog.create_folders()
    except OSError as error:
        typer.echo(f"{error.filename}: can't be created ({error.strerror}); models are not looked for there", err=True)

    def read() -> Config:
        return read_again(config_path, flags, plugins)

    def catalog(config: Config) -> Catalog:
        return build_catalog(config, plugins, files)

    if until_eof:
        end_with_stdin()
    source = ConfigSource(read, catalog, watched, stamp, live_plugins(plugins))
    return serve(startup.config, plugins, startup.catalog, source)


def end_with_stdin() -> None:
    """Drain and end when stdin ends: whoever started us holds its other end, and has gone without saying so."""

    stdin = sys.stdin.fileno()

    def wait() -> None:
        while os.read(stdin, 4096):  # not through sys.stdin, whose lock a thread must not hold at the end
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="stdin", daemon=True).start()
