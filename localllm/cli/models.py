"""``localllm models``: what is there to be served, as the server would see it."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.cli.failure import CONFIG_ERROR, explain_failures
from localllm.cli.options import ConfigOption, JsonOption, ModelArgument, NamedUrlOption, SetOption

app = typer.Typer(help="List, fetch, remove, load and unload models.", no_args_is_help=True)


@app.command("list")
def list_models(
    available: Annotated[bool, typer.Option("--available", help="List what can be pulled by name instead.")] = False,
    url: NamedUrlOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    settings: SetOption = None,
) -> None:
    """List all models; the default one has a star. Where a server runs, with their states there."""
    with explain_failures():
        if available:
            from localllm.cli.pulling import report_available

            report_available(config, settings or [], as_json=as_json)
            return
        if url is not None:
            from localllm.cli.find_server import find_server
            from localllm.cli.served_models import report_served

            report_served(find_server(url, config, settings or []), as_json=as_json)
            return
        from localllm.cli.catalogue import report_models

        report_models(config, settings or [], as_json=as_json)


@app.command("show")
def show_model(
    name: ModelArgument,
    url: NamedUrlOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    settings: SetOption = None,
) -> None:
    """Show what is known of one model without loading it."""
    with explain_failures():
        if url is not None:
            from localllm.cli.find_server import find_server
            from localllm.cli.served_models import report_served_model

            report_served_model(find_server(url, config, settings or []), name, as_json=as_json)
            return
        from localllm.cli.catalogue import report_model
        from localllm.contract.errors import ModelNotFoundError

        try:
            report_model(name, config, settings or [], as_json=as_json)
        except ModelNotFoundError as error:
            typer.echo(error.message, err=True)
            raise typer.Exit(CONFIG_ERROR) from None
