"""``localllm models`` for a running server: states beside what the disk tells, or all that the server itself has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import typer

from localllm.cli.api import AnswerError, ServerApi, ServerUnreachableError
from localllm.cli.failure import RUNTIME_ERROR
from localllm.cli.find_server import find_server
from localllm.cli.model_rows import LIST_COLUMNS, list_row, readable_meta
from localllm.cli.output import format_bytes, format_seconds, print_json, print_table
from localllm.config.errors import ConfigError

_CONNECT_SECONDS = 0.5
_SILENCE_SECONDS = 3.0
"""For what is only shown beside the rest: a server of this machine answers at once or is not there."""

_IS_LOADED = "model_busy"


def states_beside(config: Path | None, overrides: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """Return the models of the configuration's own server by id; empty where none answers, or not to us."""
    try:
        api = find_server(None, config, overrides)
        quick = replace(api, connect_seconds=_CONNECT_SECONDS, silence_seconds=_SILENCE_SECONDS)
        return {model["id"]: model for model in quick.get("/v1/models")["data"]}
    except (ServerUnreachableError, AnswerError, ConfigError, LookupError, TypeError):
        return {}  # the disk tells what there is all the same


def report_served(api: ServerApi, *, as_json: bool) -> None:
    """Print all models of a server with their states, the default one with a star."""
    default = api.get("/health").get("default_model")
    models = api.get("/v1/models").get("data", [])
    if as_json:
        print_json({"object": "list", "data": [{**model, "default": model.get("id") == default} for model in models]})
    elif models:
        rows = [[*list_row(model, is_default=model.get("id") == default), str(model.get("state"))] for model in models]
        print_table([*LIST_COLUMNS, "STATE"], rows)
    else:
        typer.echo(f"the server at {api.url} has no models", err=True)


def report_served_model(api: ServerApi, name: str, *, as_json: bool) -> None:
    """Print what a server knows of one model. Raises ``AnswerError`` for one that it doesn't know."""
    model = _get(api, name)
    if as_json:
        print_json(model)
        return
    facts = {
        "id": str(model.get("id")),
        "kind": str(model.get("type")),
        "aliases": ", ".join(model.get("aliases", ())) or "-",
        "tags": ", ".join(model.get("tags", ())) or "-",
        "capabilities": ", ".join(model.get("capabilities", ())) or "-",
        "file": str(model.get("root")),
        **state_facts(model),
        **readable_meta(model.get("meta", {})),
    }
    print_table(["FACT", "VALUE"], [[key, value] for key, value in facts.items()])


def state_facts(model: Mapping[str, Any]) -> dict[str, str]:
    """Return how a model of a server fares: its state, and while it is loaded its use, memory and time left."""
    status = model.get("status") or {}
    facts = {"state": str(model.get("state"))}
    if status.get("error"):
        facts["error"] = str(status["error"])
    if (status.get("progress") or {}).get("percent") is not None:
        facts["fetched"] = f"{status['progress']['percent']:g} %"
    if model.get("loaded"):
        facts["requests"] = f"{status.get('in_flight', 0)} running, {status.get('waiting', 0)} waiting"
        facts["memory"] = format_bytes((status.get("memory") or {}).get("total_bytes"))
        facts["expires in"] = format_seconds(status.get("expires_in_seconds"))
    return facts


def pull_by_server(api: ServerApi, source: str, kind: str | None, model_id: str | None, *, as_json: bool) -> None:
    """Have a server fetch a model into its own folder, and show how far it is. Leaving ends the pull a bit later."""
    from localllm.cli.pull_display import PullDisplay
    from localllm.contract.fetch import PullProgress, PullStatus

    asked = {"source": source, "kind": kind, "id": model_id}
    last: Mapping[str, Any] = {}
    try:
        with PullDisplay(quiet=as_json) as display:
            for last in api.stream(
                "/v1/models/pull", {key: value for key, value in asked.items() if value is not None}
            ):
                moment = PullProgress(
                    PullStatus(last["status"]), last["file"], last["completed"], last["total"], last["speed"]
                )
                if not moment.status.is_final:
                    display.show(moment)
    except AnswerError as error:
        if not as_json:
            raise
        print_json({"error": {"code": error.code, "message": error.message}})
        raise typer.Exit(RUNTIME_ERROR) from None
    except (KeyError, ValueError):
        message = f"the server at {api.url} told of the pull in a way that this version doesn't know: {str(last)[:80]}"
        raise ServerUnreachableError(message) from None
    if as_json:
        print_json(last)
        return
    what = f"{last.get('model')}: {format_bytes(last.get('total'))}, {last.get('kind')}"
    hashes = "sha256 verified" if last.get("verified") else "its sha256 was not known before: unverified"
    typer.echo(f"{what}, {hashes}" if last.get("fresh") else f"{what}, is there already")


def remove_from_server(api: ServerApi, name: str, *, yes: bool, as_json: bool) -> None:
    """Have a server remove a model's files, having asked; a loaded one is let go first, when its requests are over."""
    model = _get(api, name)
    size = format_bytes(model.get("meta", {}).get("size"))
    if not yes:
        typer.confirm(f"Remove {model.get('id')} ({size}) from {api.url}?", abort=True, err=True)
    path = _path(str(model.get("id")))
    try:
        answer = api.delete(path)
    except AnswerError as error:  # whether clients may at all comes before this refusal
        if error.code != _IS_LOADED:
            raise
        api.post("/v1/models/unload", {"model": model.get("id")})
        answer = api.delete(path)
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"removed {answer.get('id')} ({format_bytes(answer.get('size'))})")


def let_go_before_removal(model_id: str, size_bytes: object, config: Path | None, overrides: Sequence[str]) -> None:
    """Have the configuration's own server unload a model whose file is about to go: it would keep its memory.

    A model of another size is another one, of a server with other folders. Raises ``AnswerError`` for a busy one.
    """
    model = states_beside(config, overrides).get(model_id, {})
    if model.get("loaded") and model.get("meta", {}).get("size") == size_bytes:
        find_server(None, config, overrides).post("/v1/models/unload", {"model": model_id})


def _get(api: ServerApi, name: str) -> dict[str, Any]:
    return api.get(_path(name))


def _path(name: str) -> str:
    return f"/v1/models/{quote(name)}"
