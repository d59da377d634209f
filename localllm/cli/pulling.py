"""``localllm models pull``, ``rm`` and ``list --available``: models onto this machine's disk and off it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from localllm.cli.failure import CONFIG_ERROR, INTERRUPTED, RUNTIME_ERROR, explain_failures
from localllm.cli.options import ConfigOption, JsonOption, ModelArgument, NamedUrlOption, SetOption

if TYPE_CHECKING:
    from localllm.contract.fetch import PullResult
    from localllm.contract.model import ModelKind
    from localllm.models.fetch.job import PullJob


def pull_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A name of `list --available`, hf:org/repo[:quantisation], https://host/file.gguf or file:/path.",
        ),
    ],
    kind: Annotated[
        str | None, typer.Option("--kind", help="chat, embedding or reranker. Absent: what the file's header says.")
    ] = None,
    model_id: Annotated[
        str | None, typer.Option("--id", help="What the model is to be called. Absent: as its file is.")
    ] = None,
    url: NamedUrlOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    settings: SetOption = None,
) -> None:
    """Fetch a model into the models' folder; no server is needed, and one that runs finds it by itself."""
    with explain_failures():
        from localllm.cli.output import print_json
        from localllm.contract.errors import InvalidRequestError, LocalLLMError

        try:
            if url is not None:
                from localllm.cli.find_server import find_server
                from localllm.cli.served_models import pull_by_server

                pull_by_server(find_server(url, config, settings or []), source, kind, model_id, as_json=as_json)
                return
            job = _job(source, kind, model_id, config, settings or [])
            result = _pull(job, quiet=as_json)
        except LocalLLMError as error:
            if as_json:
                print_json({"error": {"code": error.code, "message": error.message}})
            else:
                typer.echo(error.message, err=True)
            raise typer.Exit(CONFIG_ERROR if isinstance(error, InvalidRequestError) else RUNTIME_ERROR) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; pull again to go on from here", err=True)
            raise typer.Exit(INTERRUPTED) from None
        if as_json:
            print_json(result.to_plain() | {"size_bytes": result.size_bytes, "verified": result.verified})
        else:
            _print_result(result)


def remove_model(
    model: ModelArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    url: NamedUrlOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    settings: SetOption = None,
) -> None:
    """Remove a model's files from the models' folder. It asks first."""
    with explain_failures():
        from localllm.cli.find_server import find_server
        from localllm.cli.output import format_bytes, print_json
        from localllm.cli.served_models import let_go_before_removal, remove_from_server
        from localllm.cli.startup import prepare
        from localllm.contract.errors import LocalLLMError
        from localllm.models.removal import plan_removal

        if url is not None:
            remove_from_server(find_server(url, config, settings or []), model, yes=yes, as_json=as_json)
            return

        startup = prepare(config, settings or [])
        try:
            spec = startup.catalog.resolve(model)
            removal = plan_removal(spec, startup.config.models.directory.absolute())
        except LocalLLMError as error:
            typer.echo(error.message, err=True)
            raise typer.Exit(CONFIG_ERROR) from None
        if not yes:
            for path in removal.paths:
                typer.echo(str(path), err=True)
            typer.confirm(f"Remove {spec.id} ({format_bytes(removal.size_bytes)})?", abort=True, err=True)
        let_go_before_removal(spec.id, spec.meta.get("size"), config, settings or [])
        try:
            removal.execute()
        except OSError as error:
            typer.echo(f"{error.filename}: can't be removed: {error.strerror}", err=True)
            raise typer.Exit(RUNTIME_ERROR) from None
        if as_json:
            print_json({"id": spec.id, "files": [str(path) for path in removal.paths], "size": removal.size_bytes})
        else:
            typer.echo(f"removed {spec.id} ({format_bytes(removal.size_bytes)})")


def report_available(path: Path | None, overrides: Sequence[str], *, as_json: bool) -> None:
    """Print the models that can be pulled by name. Raises ``ConfigError`` for a catalogue that can't be read."""
    from localllm.cli.output import format_bytes, print_json, print_table
    from localllm.cli.startup import prepare
    from localllm.server.pulling import known_models

    startup = prepare(path, overrides)
    present = {name for spec in startup.catalog.specs().values() for name in (spec.id, *spec.aliases)}
    models = sorted(
        known_models(startup.config).models.values(), key=lambda model: (model.size_megabytes or 0, model.name)
    )
    if as_json:
        rows = [
            {
                "name": model.name,
                "source": model.source,
                "kind": model.kind.value if model.kind else None,
                "size": None if model.size_megabytes is None else int(model.size_megabytes * 1_000_000),
                "license": model.license,
                "about": model.about,
                "present": model.name in present,
            }
            for model in models
        ]
        print_json({"object": "list", "data": rows})
        return
    sizes = [None if model.size_megabytes is None else int(model.size_megabytes * 1_000_000) for model in models]
    print_table(
        ["NAME", "KIND", "SIZE", "LICENSE", "HERE", "ABOUT"],
        [
            [
                model.name,
                model.kind.value if model.kind else "?",
                format_bytes(size),
                model.license or "?",
                "yes" if model.name in present else "-",
                model.about,
            ]
            for model, size in zip(models, sizes, strict=True)
        ],
    )


def _job(source: str, kind: str | None, model_id: str | None, config: Path | None, settings: Sequence[str]) -> PullJob:
    """Return what is to be done. Raises ``InvalidRequestError``, and what reading the configuration raises."""
    from localllm.cli.startup import read_config
    from localllm.models.pull_options import make_job
    from localllm.server.pulling import pull_options

    reading = read_config(config, settings)
    reading.plugins.register(reading.config)
    options = pull_options(reading.config, reading.plugins, for_clients=False)
    return make_job(options, source, kind=_kind(kind), model_id=model_id)


def _kind(text: str | None) -> ModelKind | None:
    from localllm.contract.errors import InvalidRequestError
    from localllm.contract.model import ModelKind

    try:
        return None if text is None else ModelKind(text)
    except ValueError:
        message = f"--kind must be one of {', '.join(one.value for one in ModelKind)}, not {text!r}."
        raise InvalidRequestError(message, param="kind") from None


def _pull(job: PullJob, *, quiet: bool) -> PullResult:
    """Pull as the server does, with a bar where there is a terminal to show one. Ctrl-C ends the fetching process."""
    import asyncio

    from localllm.cli.pull_display import PullDisplay
    from localllm.models.fetch_process import fetch_in_process

    if quiet:
        return asyncio.run(fetch_in_process(job, lambda progress: None))
    with PullDisplay() as display:
        return asyncio.run(fetch_in_process(job, display.show))


def _print_result(result: PullResult) -> None:
    from localllm.cli.output import format_bytes

    if not result.fresh:
        typer.echo(f"{result.model_id} is there already ({format_bytes(result.size_bytes)}, {result.kind.value})")
        return
    hashes = "sha256 verified" if result.verified else "its sha256 was not known before: unverified"
    typer.echo(f"{result.model_id}: {format_bytes(result.size_bytes)}, {result.kind.value}, {hashes}")
    for file in result.files:
        typer.echo(f"  {file.path}")
