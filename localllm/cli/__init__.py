"""The ``localllm`` command. What is heavy is imported inside the command that needs it, so that ``--help`` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm.cli import models
from localllm.cli.failure import CONFIG_ERROR, explain_failures
from localllm.cli.options import ConfigOption, SetOption

app = typer.Typer(
    name="localllm",
    help="Run GGUF models on your own machine behind OpenAI-compatible endpoints.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(models.app, name="models")


def main() -> None:
    """Run the command line; the entry point of the ``localllm`` script."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        from localllm import __version__

        typer.echo(f"localllm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Run GGUF models on your own machine behind OpenAI-compatible endpoints."""


@app.command()
def serve(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL.gguf", help="Serve this file too, and make it the default model."),
    ] = None,
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (server.host).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (server.port).")] = None,
    settings: SetOption = None,
) -> None:
    """Start the server; it runs until Ctrl-C or SIGTERM."""
    with explain_failures():
        from localllm.cli.serving import run_server

        raise typer.Exit(run_server(model, config, host, port, settings or []))


@app.command()
def check(config: ConfigOption = None, settings: SetOption = None) -> None:
    """Check configuration, plugins and model files without starting anything."""
    with explain_failures():
        from localllm.cli.reports import report_check

        raise typer.Exit(report_check(config, settings or []))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("localllm.toml"),
) -> None:
    """Write a commented configuration with every key. An existing file is left alone."""
    with explain_failures():
        from localllm.config.describe import toml_template
        from localllm.plugin_manager import load_plugins

        text = toml_template(load_plugins().sections)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            typer.echo(f"{path} is there already; it was not touched", err=True)
            raise typer.Exit(CONFIG_ERROR) from None
        except OSError as error:
            typer.echo(f"{path} can't be written: {error.strerror}", err=True)
            raise typer.Exit(CONFIG_ERROR) from None
        typer.echo(f"wrote {path}; `localllm check` checks it, `localllm serve` starts with it")


@app.command()
def plugins(config: ConfigOption = None, settings: SetOption = None) -> None:
    """List the installed plugins, the enabled ones in the order in which they run."""
    with explain_failures():
        from localllm.cli.reports import report_plugins

        report_plugins(config, settings or [])


@app.command()
def doctor(config: ConfigOption = None, settings: SetOption = None) -> None:
    """Look at the machine, the installation and the models, and say what to mend."""
    from localllm.cli.diagnosis import report_doctor

    raise typer.Exit(report_doctor(config, settings or []))
