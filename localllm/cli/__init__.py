"""The ``localllm`` command. What is heavy is imported inside the command that needs it, so that ``--help`` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm.cli import models, pulling, running
from localllm.cli.failure import explain_failures
from localllm.cli.options import ConfigOption, JsonOption, ModelOption, SetOption, UrlOption
from localllm.cli.plugin_commands import GroupWithPlugins

app = typer.Typer(
    name="localllm",
    cls=GroupWithPlugins,
    help="Run GGUF models on your own machine behind OpenAI-compatible endpoints.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Plugins may bring commands of their own, as `localllm sessions` does.\n\n"
    "Exit codes: 0 done, 1 it could not be done, 2 wrong configuration or arguments, 3 no server answers, 130 Ctrl-C.",
)
app.add_typer(models.app, name="models")
models.app.command("load")(running.load_model)
models.app.command("unload")(running.unload_model)
models.app.command("ps")(running.list_loaded)
models.app.command("pull")(pulling.pull_model)
models.app.command("rm")(pulling.remove_model)


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
    reload: Annotated[
        bool, typer.Option("--reload", help="For development: start again when sources or the configuration change.")
    ] = False,
    until_eof: Annotated[bool, typer.Option("--until-eof", hidden=True, help="End when stdin does.")] = False,
    settings: SetOption = None,
) -> None:
    """Start the server; it runs until Ctrl-C or SIGTERM."""
    with explain_failures():
        from localllm.cli.serving import run_server, server_flags

        flags = server_flags(host, port, settings or [])
        if reload:
            from localllm.cli.supervise import supervise

            raise typer.Exit(supervise(model, config, flags))
        raise typer.Exit(run_server(model, config, flags, until_eof=until_eof))


@app.command()
def chat(
    model: ModelOption = None,
    system: Annotated[str | None, typer.Option("--system", help="The system message.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="A field of every request: temperature=0.")
    ] = None,
    load: Annotated[Path | None, typer.Option("--load", help="Go on with a conversation that /save wrote.")] = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--session", metavar="ID|new", help="Have the server keep the conversation: an ID to go on with, or new."
        ),
    ] = None,
    url: UrlOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
) -> None:
    """Talk to a model in the terminal; /help lists the commands. Without a terminal every line is a question."""
    with explain_failures():
        from localllm.cli.chat import run_chat

        raise typer.Exit(run_chat(model, system, param or [], load, session, url, config, settings or []))


@app.command()
def check(config: ConfigOption = None, settings: SetOption = None, as_json: JsonOption = False) -> None:
    """Check configuration, plugins and model files, and print what counts and where it comes from."""
    with explain_failures():
        from localllm.cli.reports import report_check

        raise typer.Exit(report_check(config, settings or [], as_json=as_json))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write, or its folder.")] = Path("localllm.toml"),
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Write a commented configuration with every key. An existing file is left alone."""
    with explain_failures():
        from localllm.cli.init import write_config

        raise typer.Exit(write_config(path, force=force))


@app.command("reload")
def reload_config(
    url: UrlOption = None, as_json: JsonOption = False, config: ConfigOption = None, settings: SetOption = None
) -> None:
    """Have the running server read its configuration again."""
    with explain_failures():
        from localllm.cli.running import report_reload

        report_reload(url, config, settings or [], as_json=as_json)


@app.command()
def plugins(config: ConfigOption = None, settings: SetOption = None, as_json: JsonOption = False) -> None:
    """List the installed plugins, the enabled ones in the order in which they run."""
    with explain_failures():
        from localllm.cli.reports import report_plugins

        report_plugins(config, settings or [], as_json=as_json)


@app.command()
def doctor(
    all_models: Annotated[
        bool, typer.Option("--all", help="Tell of every model, not of the default ones only, what goes to which GPU.")
    ] = False,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at the machine, its GPUs, the installation and the models, and say what to mend."""
    from localllm.cli.diagnosis import report_doctor

    raise typer.Exit(report_doctor(config, settings or [], all_models=all_models, as_json=as_json))
