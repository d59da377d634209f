"""Where a value of the configuration came from: the default, a line of the file, a variable, a flag."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class OriginKind(StrEnum):
    """The four places, in rising order of rank."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Origin:
    """One place. ``name`` is the file's name, the variable's or the flag's; ``line`` counts from 1."""

    kind: OriginKind
    name: str = ""
    line: int | None = None

    def __str__(self) -> str:
        """Return it as people read it: "default", "localllm.toml:12", "environment LOCALLLM_API_KEYS", "--set"."""
        if self.kind is OriginKind.ENVIRONMENT:
            return f"environment {self.name}"
        if self.kind is OriginKind.FILE and self.line is not None:
            return f"{self.name}:{self.line}"
        return self.name or self.kind.value


DEFAULT = Origin(OriginKind.DEFAULT)


def line_numbers(text: str) -> dict[str, int]:
    """Return the line on which each key and table of a TOML document begins, by dotted path.

    The standard library's reader keeps no positions. So the document is cut into its statements, each of which is the
    shortest run of lines that is TOML by itself. A text that is no TOML gives what comes before the fault.
    """
    found: dict[str, int] = {}
    table: list[str] = []
    pending: list[str] = []
    start = 1
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not pending:
            start = number
            if not line.strip() or line.lstrip().startswith("#"):
                continue
        pending.append(line)
        statement = _parse("\n".join(pending))
        if statement is None:
            continue
        path = _path(statement)
        if pending[0].lstrip().startswith("["):
            table, path = path, []
        for length in range(1, len(table) + len(path) + 1):
            found.setdefault(".".join([*table, *path][:length]), start)
        pending = []
    return found


def nearest_line(lines: dict[str, int], path: str) -> int | None:
    """Return the line of a key, or of the table or inline table that it stands in; None when the file has neither."""
    while path not in lines and "." in path:
        path = path.rpartition(".")[0]
    return lines.get(path)


def _parse(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _path(statement: dict[str, Any]) -> list[str]:
    """Return the names down to the statement's value. An inline table's own keys stand on its line anyway."""
    path: list[str] = []
    rest: Any = statement
    while isinstance(rest, dict) and len(rest) == 1:
        name, rest = next(iter(rest.items()))
        path.append(name)
    return path
