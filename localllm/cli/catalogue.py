"""What ``localllm models list`` and ``show`` print: the models as a server with this configuration would see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from localllm.cli.model_rows import LIST_COLUMNS, list_row, readable_meta
from localllm.cli.output import print_json, print_table
from localllm.cli.served_models import state_facts, states_beside
from localllm.cli.startup import prepare
from localllm.contract.model import ModelDefinition, ModelSpec
from localllm.models.catalog import Catalog
from localllm.server.model_objects import model_object

_EXTRA_COLUMNS = ("STATE", "WITH", "TAGS", "STORE")
"""Shown when any model has something there."""


def report_models(path: Path | None, overrides: Sequence[str], *, as_json: bool) -> None:
    """Print all models, the default one with a star, and what can't be served.

    Where the configuration's server runs, with the state of each there.
    """
    catalog = _read_catalog(path, overrides)
    specs = list(catalog.specs().values())
    served = states_beside(path, overrides)
    if as_json:
        models = [_document(spec, catalog, served.get(spec.id)) for spec in specs]
        models += [_arriving_document(definition) for definition in catalog.arriving.values()]
        print_json({"object": "list", "data": models, "problems": list(catalog.problems)})
        return
    if specs:
        extras = [_extras(spec, served.get(spec.id)) for spec in specs]
        shown = [column for column in _EXTRA_COLUMNS if any(extra[column] for extra in extras)]
        rows = [
            [
                *list_row(model_object(spec, None), is_default=spec.id == catalog.default),
                *(extra[column] or "-" for column in shown),
            ]
            for spec, extra in zip(specs, extras, strict=True)
        ]
        print_table([*LIST_COLUMNS, *shown], rows)
    elif not catalog.arriving:
        typer.echo(f"no models yet: put a GGUF file into {catalog.options.directory / 'chat'}", err=True)
        if served:
            typer.echo(
                "the server that runs has models in other folders: see them with --url, or LOCALLLM_URL", err=True
            )
    for definition in catalog.arriving.values():
        typer.echo(f"not fetched yet: {definition.id} (a server fetches it from {definition.source})")
    for problem in catalog.problems:
        typer.echo(f"problem: {problem}", err=True)


def report_model(name: str, path: Path | None, overrides: Sequence[str], *, as_json: bool) -> None:
    """Print what is known of one model without loading it. Raises ``ModelNotFoundError`` and ``ModelFileError``."""
    catalog = _read_catalog(path, overrides)
    spec = catalog.resolve(name)
    served = states_beside(path, overrides).get(spec.id)
    if as_json:
        print_json(_document(spec, catalog, served))
        return
    facts = {
        "id": spec.id,
        "default": "yes" if spec.id == catalog.default else "no",
        "aliases": ", ".join(spec.aliases) or "-",
        "tags": ", ".join(spec.tags) or "-",
        "backend": spec.backend,
        "file": spec.path or "-",
        **({} if served is None else state_facts(served)),
        **readable_meta(spec.meta),
        **({} if spec.ttl_seconds is None else {"ttl": f"{spec.ttl_seconds:g} s"}),
        **({"pinned": "yes"} if spec.pinned else {}),
        **{f"settings.{key}": str(value) for key, value in spec.settings.items()},
    }
    print_table(["FACT", "VALUE"], [[key, value] for key, value in facts.items()])


def _read_catalog(path: Path | None, overrides: Sequence[str]) -> Catalog:
    catalog = prepare(path, overrides).catalog
    catalog.refresh()  # a server reads the headers of large stores bit by bit
    return catalog


def _document(spec: ModelSpec, catalog: Catalog, served: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a model as ``GET /v1/models`` shows it, less what no server tells, plus what only the owner may know."""
    model = model_object(spec, None)
    for key in ("loaded", "state"):
        del model[key]
    told = {key: served[key] for key in ("loaded", "state", "status") if key in served} if served else {}
    return (
        model
        | told
        | {
            "default": spec.id == catalog.default,
            "backend": spec.backend,
            "path": spec.path,
            "settings": dict(spec.settings),
        }
    )


def _arriving_document(definition: ModelDefinition) -> dict[str, Any]:
    """Return what is known of a model that a server is still to fetch."""
    return {
        "id": definition.id,
        "object": "model",
        "aliases": list(definition.aliases),
        "tags": list(definition.tags),
        "default": False,
        "backend": definition.backend,
        "path": None,
        "settings": dict(definition.settings),
        "not_fetched_yet": definition.source,
    }


def _extras(spec: ModelSpec, served: Mapping[str, Any] | None) -> dict[str, str]:
    adapters = spec.meta.get("adapters", ())
    companions = [
        *(["projector"] if spec.meta.get("projector") else []),
        *([f"{len(adapters)} adapter{'s' if len(adapters) > 1 else ''}"] if adapters else []),
    ]
    return {
        "STATE": "" if served is None else str(served.get("state", "")),
        "WITH": ", ".join(companions),
        "TAGS": ", ".join(spec.tags),
        "STORE": str(spec.meta.get("store", "")),
    }
