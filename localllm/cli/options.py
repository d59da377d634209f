"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

ConfigOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads the annotation
    typer.Option(
        "--config",
        "-c",
        envvar="LOCALLLM_CONFIG",
        help="The configuration file. Absent: ./localllm.toml if it exists, else the defaults.",
    ),
]

SetOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the configuration, e.g. --set server.port=9000."),
]
