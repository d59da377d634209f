"""``localllm sessions COMMAND``: what is done with conversations beside a server, or without one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .sqlite_backup import back_up
from .sqlite_faults import StoreStartError
from .sqlite_store import database_path

app = typer.Typer()


@app.command()
def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; it must not be there yet.")],
) -> None:
    """Write a sound copy of all conversations into FILE, while the server runs or not."""
    path = database_path(context.obj)
    try:
        n_bytes = back_up(path, file.absolute())
    except StoreStartError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(
        f"{file}: {n_bytes} bytes. To restore it, stop the server, move {path}-wal and {path.name}-shm away "
        f"if they are there, and put it in the place of {path.name}."
    )
