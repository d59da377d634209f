"""How commands print tables and quantities: aligned on a terminal, whole lines in a pipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 240


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings. A pipe gets wide lines, so that nothing is cut or wrapped."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # names are no markup
    console.print(table, markup=False, highlight=False)


def print_json(document: Any) -> None:  # noqa: ANN401
    """Print one JSON document, for programs; what is not ASCII is escaped, so that any terminal's encoding will do."""
    typer.echo(json.dumps(document, indent=2))


def format_seconds(seconds: float | None) -> str:
    """Return "12 s", "3 min", "2.5 h" or "4 d"; "-" for what is not known or never."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "h" and seconds >= length):
            return f"{seconds / length:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def format_bytes(n_bytes: int | None) -> str:
    """Return "1.4 GB" (powers of 1000, as file managers show)."""
    return _scale(n_bytes, " kMGT", "B")


def format_count(count: int | None) -> str:
    """Return "1.4 B" for 1,400,000,000 parameters."""
    return _scale(count, " KMBT", "")


def _scale(value: int | None, prefixes: str, unit: str) -> str:
    if value is None:
        return "?"
    scaled, step = float(value), 0
    while scaled >= 999.5 and step < len(prefixes) - 1:  # 999.5 would be shown as 1000
        scaled, step = scaled / 1000, step + 1
    digits = 1 if step and scaled < 99.95 else 0
    return f"{scaled:.{digits}f} {prefixes[step].strip()}{unit}".strip()
