"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from localllm.cli.completion import complete_loaded_model, complete_model

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Id, alias or file name.", autocompletion=complete_model)
]

LoadedModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Id, alias or file name.", autocompletion=complete_loaded_model)
]

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Id or alias. Absent: the default model.", autocompletion=complete_model),
]

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="LOCALLLM_CONFIG",
        help="The configuration file. Absent: ./localllm.toml if it exists, else the defaults.",
    ),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the configuration, e.g. --set server.port=9000."),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text for people.")]

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="LOCALLLM_URL",
        metavar="URL",
        help="The running server, e.g. http://127.0.0.1:8000. Absent: as the configuration says.",
    ),
]

NamedUrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="LOCALLLM_URL",
        metavar="URL",
        help="A running server whose models are meant. Absent: those in the folders of the configuration.",
    ),
]
