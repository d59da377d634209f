"""``localllm models``: what is there to be served, as the server would see it."""

from __future__ import annotations

from typing import Annotated

import typer

from localllm.cli.failure import CONFIG_ERROR, explain_failures
from localllm.cli.options import ConfigOption, SetOption

app = typer.Typer(help="Look at the models.", no_args_is_help=True)


@app.command("list")
def list_models(config: ConfigOption = None, settings: SetOption = None) -> None:
    """List all models; the default one has a star."""
    with explain_failures():
        from localllm.cli.output import format_bytes, format_count, print_table
        from localllm.cli.startup import prepare

        catalog = prepare(config, settings or []).catalog
        rows = [
            [
                spec.id + (" *" if spec.id == catalog.default else ""),
                spec.kind.value,
                str(spec.meta.get("quantisation") or "?"),
                format_count(spec.meta.get("n_params")),
                format_bytes(spec.meta.get("size")),
                str(spec.meta.get("n_ctx_train") or "?"),
            ]
            for spec in catalog.specs().values()
        ]
        if rows:
            print_table(["MODEL", "KIND", "QUANTISATION", "PARAMETERS", "SIZE", "CONTEXT"], rows)
        else:
            typer.echo(f"no models yet: put a GGUF file into {catalog.options.directory / 'chat'}", err=True)
        for problem in catalog.problems:
            typer.echo(f"problem: {problem}", err=True)


@app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Id, alias or file name.")],
    config: ConfigOption = None,
    settings: SetOption = None,
) -> None:
    """Show what is known of one model without loading it."""
    with explain_failures():
        from localllm.cli.output import format_bytes, format_count, print_table
        from localllm.cli.startup import prepare
        from localllm.contract.errors import ModelNotFoundError

        catalog = prepare(config, settings or []).catalog
        try:
            spec = catalog.resolve(name)
        except ModelNotFoundError as error:
            typer.echo(error.message, err=True)
            raise typer.Exit(CONFIG_ERROR) from None
        meta = dict(spec.meta)
        readable = {"size": format_bytes(meta.pop("size", None)), "n_params": format_count(meta.pop("n_params", None))}
        facts = {
            "id": spec.id,
            "default": "yes" if spec.id == catalog.default else "no",
            "aliases": ", ".join(spec.aliases) or "-",
            "backend": spec.backend,
            "file": spec.path or "-",
            **{key: str(value) for key, value in {**readable, **meta}.items() if value is not None},
            **{f"settings.{key}": str(value) for key, value in spec.settings.items()},
        }
        print_table(["FACT", "VALUE"], [[key, value] for key, value in facts.items()])
