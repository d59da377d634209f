"""``localllm init``: writes the commented configuration with every key."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import typer

from localllm.cli.failure import CONFIG_ERROR, RUNTIME_ERROR
from localllm.config.describe import toml_template
from localllm.config.layers import DEFAULT_FILE
from localllm.plugin_manager import load_plugins


def write_config(path: Path, *, force: bool) -> int:
    """Write the file, whole or not at all, and return the exit code. A folder means its ``localllm.toml``."""
    path = path / DEFAULT_FILE if path.is_dir() else path
    text = toml_template(load_plugins().sections)
    try:
        _write(path, text, replace=force)
    except FileExistsError:
        typer.echo(f"{path} is there already; it was not touched (--force writes over it)", err=True)
        return CONFIG_ERROR
    except OSError as error:
        typer.echo(f"{path} can't be written: {error.strerror or error}", err=True)
        return RUNTIME_ERROR
    typer.echo(f"wrote {path}; `localllm check` checks it, `localllm serve` starts with it")
    return 0


def _write(path: Path, text: str, *, replace: bool) -> None:
    """Raise ``FileExistsError`` rather than replace a file that was not to be replaced."""
    if not replace:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        return
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
