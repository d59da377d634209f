"""What ``localllm check`` and ``localllm plugins`` print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from localllm.cli.failure import RUNTIME_ERROR
from localllm.cli.output import print_table
from localllm.cli.startup import prepare, read_config


def report_check(path: Path | None, overrides: Sequence[str]) -> int:
    """Print a line for each part that was checked and one for each problem. Return the exit code.

    Wrong configurations and plugins raise; models that can't be served are listed and give ``RUNTIME_ERROR``.
    """
    startup = prepare(path, overrides)
    config, plugins, catalog = startup.config, startup.plugins, startup.catalog
    typer.echo(f"configuration: {config.source or 'defaults (no file)'}")
    enabled = [info.name for info in plugins.describe() if info.enabled]
    typer.echo(f"plugins:       {', '.join(enabled) or 'none'}")
    models = [spec_id + (" (default)" if spec_id == catalog.default else "") for spec_id in catalog.specs()]
    typer.echo(f"models:        {', '.join(models) or f'none in {config.models.directory}'}")
    for problem in catalog.problems:
        typer.echo(f"problem: {problem}", err=True)
    typer.echo("no problems found" if not catalog.problems else f"{len(catalog.problems)} problem(s)")
    return RUNTIME_ERROR if catalog.problems else 0


def report_plugins(path: Path | None, overrides: Sequence[str]) -> None:
    """Print one line for each installed plugin."""
    _, plugins = read_config(path, overrides)
    rows = [
        [
            info.name,
            "yes" if info.enabled else "no",
            f"{info.distribution} {info.version}",
            ", ".join(hook.removeprefix("localllm_") for hook in info.hooks) or "-",
        ]
        for info in plugins.describe()
    ]
    print_table(["PLUGIN", "ENABLED", "FROM", "HOOKS"], rows)
