"""Which models' names the shell offers while a command is being typed: quickly, and without a word of its own."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

CONNECT_SECONDS = 0.25
"""For the server to answer; a person waits. One on this machine that isn't there says so at once."""

SILENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Named:
    id: str
    aliases: Sequence[str]
    loaded: bool = True  # as far as is known


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of models that begin so: a running server's, or else those that the catalogue finds here."""
    return _quietly(lambda: _matching(_models(context.params), incomplete))


def complete_loaded_model(context: typer.Context, incomplete: str) -> list[str]:
    """Do the same for what can be unloaded: of a running server's models those that it has loaded."""
    return _quietly(lambda: _matching([one for one in _models(context.params) if one.loaded], incomplete))


def _quietly(find: Callable[[], list[str]]) -> list[str]:
    """Return what ``find`` does, and nothing where it fails: what it prints would end up in the line being typed."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            return find()
        except Exception:  # noqa: BLE001 - the command itself will say what is wrong, once it is run
            return []


def _matching(models: Iterable[_Named], incomplete: str) -> list[str]:
    """Return ids, and where something was typed aliases too: of many names for one model the first is enough.

    What is not printable, a line break above all, no shell would take for one name.
    """
    names = [name for one in models for name in (one.id, *(one.aliases if incomplete else ()))]
    return sorted({name for name in names if name.startswith(incomplete) and name.isprintable()})


def _models(params: Mapping[str, Any]) -> list[_Named]:
    config, overrides = params.get("config"), params.get("settings") or []
    served = _of_server(params.get("url"), config, overrides)
    return _of_catalogue(config, overrides) if served is None else served


def _of_server(url: str | None, config: Path | None, overrides: Sequence[str]) -> list[_Named] | None:
    """Return the models of the server that the command would talk to; None where none answers."""
    from localllm.cli.api import AnswerError, ServerUnreachableError
    from localllm.cli.find_server import find_server
    from localllm.config.errors import ConfigError

    try:
        api = find_server(url, config, overrides)
        found = replace(api, connect_seconds=CONNECT_SECONDS, silence_seconds=SILENCE_SECONDS).get("/v1/models")
    except (ServerUnreachableError, AnswerError, ConfigError):
        return None
    return [_Named(model["id"], model.get("aliases", ()), bool(model.get("loaded"))) for model in found.get("data", ())]


def _of_catalogue(config: Path | None, overrides: Sequence[str]) -> list[_Named]:
    from localllm.cli.startup import prepare

    catalog = prepare(config, overrides).catalog
    there = [_Named(one.id, one.aliases) for one in catalog.specs().values()]
    return there + [_Named(one.id, one.aliases) for one in catalog.arriving.values()]
