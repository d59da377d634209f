"""What ``localllm check`` and ``localllm plugins`` print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from localllm.cli.failure import CONFIG_ERROR, RUNTIME_ERROR
from localllm.cli.output import print_json, print_table
from localllm.cli.startup import Startup, prepare, read_config
from localllm.config.describe import toml_value
from localllm.config.effective import Entry, list_effective
from localllm.config.errors import ConfigError
from localllm.plugin_discovery import PluginError


def report_check(path: Path | None, overrides: Sequence[str], *, as_json: bool = False) -> int:
    """Print every key with its value and origin, then what was found of plugins and models. Return the exit code.

    Models that can't be served are listed and give ``RUNTIME_ERROR``. Wrong configurations and plugins raise
    ``ConfigError`` and ``PluginError``; as JSON they are printed and give ``CONFIG_ERROR``.
    """
    from localllm.server.pulling import known_models

    try:
        startup = prepare(path, overrides)
        known_models(startup.config)
    except (ConfigError, PluginError) as error:
        if not as_json:
            raise
        problems = list(error.problems) if isinstance(error, ConfigError) else [str(error)]
        print_json({"valid": False, "problems": problems})
        return CONFIG_ERROR
    entries = list_effective(startup.config, startup.layers)
    if as_json:
        print_json(_check_document(startup, entries))
    else:
        _print_check(startup, entries)
    return RUNTIME_ERROR if startup.catalog.problems else 0


def _print_check(startup: Startup, entries: Sequence[Entry]) -> None:
    config, catalog = startup.config, startup.catalog
    rows = [[entry.path, _shown(entry.value), str(entry.origin)] for entry in entries]
    print_table(["KEY", "VALUE", "FROM"], rows)
    typer.echo()
    typer.echo(f"configuration: {config.source or 'defaults (no file)'}")
    typer.echo(f"plugins:       {', '.join(_enabled(startup)) or 'none'}")
    models = [spec_id + (" (default)" if spec_id == catalog.default else "") for spec_id in catalog.specs()]
    typer.echo(f"models:        {', '.join(models) or f'none in {config.models.directory}'}")
    for model_id, definition in catalog.arriving.items():
        typer.echo(f"to fetch:      {model_id} from {definition.source}")
    for problem in catalog.problems:
        typer.echo(f"problem: {problem}", err=True)
    typer.echo("no problems found" if not catalog.problems else f"{len(catalog.problems)} problem(s)")


def _check_document(startup: Startup, entries: Sequence[Entry]) -> dict[str, Any]:
    config, catalog = startup.config, startup.catalog
    return {
        "valid": True,
        "problems": list(catalog.problems),
        "source": str(config.source) if config.source else None,
        "plugins": _enabled(startup),
        "models": list(catalog.specs()),
        "default_model": catalog.default,
        "to_fetch": {model_id: definition.source for model_id, definition in catalog.arriving.items()},
        "configuration": {
            entry.path: {
                "value": entry.value,
                "origin": {"kind": entry.origin.kind.value, "name": entry.origin.name, "line": entry.origin.line},
            }
            for entry in entries
        },
    }


def _enabled(startup: Startup) -> list[str]:
    return [info.name for info in startup.plugins.describe() if info.enabled]


def _shown(value: object) -> str:
    return "(absent)" if value is None else toml_value(value)


def report_plugins(path: Path | None, overrides: Sequence[str], *, as_json: bool = False) -> None:
    """Print one line, or one JSON object, for each installed plugin."""
    found = read_config(path, overrides).plugins.describe()
    if as_json:
        print_json(
            [
                {
                    "name": info.name,
                    "enabled": info.enabled,
                    "distribution": info.distribution,
                    "version": info.version,
                    "hooks": list(info.hooks),
                }
                for info in found
            ]
        )
        return
    rows = [
        [
            info.name,
            "yes" if info.enabled else "no",
            f"{info.distribution} {info.version}",
            ", ".join(hook.removeprefix("localllm_") for hook in info.hooks) or "-",
        ]
        for info in found
    ]
    print_table(["PLUGIN", "ENABLED", "FROM", "HOOKS"], rows)
