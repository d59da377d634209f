"""``localllm models load``, ``unload``, ``ps`` and ``localllm reload``: what a running server is asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from localllm.cli.failure import explain_failures
from localllm.cli.options import ConfigOption, JsonOption, LoadedModelArgument, ModelArgument, SetOption, UrlOption


def load_model(
    model: ModelArgument,
    ttl: Annotated[
        float | None, typer.Option("--ttl", metavar="SECONDS", help="Let it go when unused for so long; 0: never.")
    ] = None,
    pin: Annotated[bool, typer.Option("--pin", help="Keep it, even when another model needs its room.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    settings: SetOption = None,
) -> None:
    """Have the running server load a model, and wait until it is ready."""
    body: dict[str, Any] = {"model": model}
    if ttl is not None:
        body["ttl_seconds"] = ttl
    if pin:
        body["pinned"] = True
    _ask("/v1/models/load", body, url, config, settings, as_json=as_json)


def unload_model(
    model: LoadedModelArgument,
    force: Annotated[bool, typer.Option("--force", help="Cut its running requests instead of waiting.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    settings: SetOption = None,
) -> None:
    """Have the running server let a model go, when its requests are done."""
    body: dict[str, Any] = {"model": model}
    if force:
        body["force"] = True
    _ask("/v1/models/unload", body, url, config, settings, as_json=as_json)


def list_loaded(
    url: UrlOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    settings: SetOption = None,
) -> None:
    """List the models that the running server has loaded, or is loading."""
    with explain_failures():
        from localllm.cli.find_server import find_server
        from localllm.cli.output import print_json, print_table

        models = find_server(url, config, settings or []).get("/v1/models").get("data", [])
        found = [model for model in models if model.get("state") not in {None, "unloaded"}]
        if as_json:
            print_json(found)
        elif found:
            columns = ["MODEL", "KIND", "STATE", "INSTANCES", "RUNNING", "WAITING"]
            columns += ["MEMORY", "LOADED FOR", "EXPIRES IN", "PID"]
            print_table(columns, [_row(model) for model in found])
        else:
            typer.echo("no model is loaded; the first request to one loads it", err=True)


def report_reload(url: str | None, config: Path | None, settings: Sequence[str], *, as_json: bool) -> None:
    """Print what the running server made of its configuration, read anew."""
    from localllm.cli.find_server import find_server
    from localllm.cli.output import print_json

    answer = find_server(url, config, settings).post("/v1/admin/reload")
    if as_json:
        print_json(answer)
        return
    applied, later = answer.get("applied", []), answer.get("needs_restart", [])
    typer.echo(f"applied: {', '.join(applied)}" if applied else "nothing to apply")
    if later:
        typer.echo(f"changes only by a restart: {', '.join(later)}")
    for warning in answer.get("warnings", []):
        typer.echo(f"problem: {warning}", err=True)


def _ask(
    path: str,
    body: Mapping[str, Any],
    url: str | None,
    config: Path | None,
    settings: list[str] | None,
    *,
    as_json: bool,
) -> None:
    with explain_failures():
        from localllm.cli.find_server import find_server
        from localllm.cli.output import print_json

        answer = find_server(url, config, settings or []).post(path, body)
        if as_json:
            print_json(answer)
        else:
            typer.echo(f"{answer.get('id', body['model'])}: {answer.get('state', 'done')}")


def _row(model: Mapping[str, Any]) -> list[str]:
    from localllm.cli.output import format_bytes, format_seconds

    status = model.get("status") or {}
    memory = status.get("memory") or {}
    total = memory.get("total_bytes") if isinstance(memory, Mapping) else memory
    instances = [one for one in status.get("instances", []) if one.get("loaded_for_seconds") is not None]
    pids = [str(one["worker_pid"]) for one in instances if one.get("worker_pid") is not None]
    return [
        str(model.get("id")),
        str(model.get("type")),
        str(model.get("state")),
        str(len(instances)),
        str(status.get("in_flight", 0)),
        str(status.get("waiting", 0)),
        format_bytes(total),
        format_seconds(status.get("loaded_for_seconds")),
        format_seconds(status.get("expires_in_seconds")),
        ", ".join(pids) or "-",
    ]
