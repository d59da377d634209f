"""Turns the errors that a user can mend into sentences and exit codes, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

RUNTIME_ERROR = 1
"""The server could not run: the port is taken, for instance. Also: the check found models that can't be served."""

CONFIG_ERROR = 2
"""The configuration, a plugin or an argument is wrong."""


@contextmanager
def explain_failures() -> Iterator[None]:
    """Print each problem on a line of its own and leave with :data:`CONFIG_ERROR`."""
    from localllm.config.errors import ConfigError
    from localllm.contract.errors import ModelFileError
    from localllm.plugin_discovery import PluginError

    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
    except PluginError as error:
        typer.echo(str(error), err=True)
    except ModelFileError as error:
        typer.echo(error.message, err=True)
    else:
        return
    raise typer.Exit(CONFIG_ERROR)
