"""Turns the errors that a user can mend into sentences and exit codes, without a traceback. docs/cli.md lists them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

RUNTIME_ERROR = 1
"""It could not be done: the port is taken, the server answered with an error, the check found a model that can't be
served."""

CONFIG_ERROR = 2
"""The configuration, a plugin or an argument is wrong."""

UNREACHABLE = 3
"""The command needs a running server, and none answers."""

INTERRUPTED = 130
"""Ctrl-C: 128 and the number of SIGINT, as shells count."""


@contextmanager
def explain_failures() -> Iterator[None]:
    """Print each problem on a line of its own and leave with the exit code of its kind."""
    from localllm.cli.api import AnswerError, ServerUnreachableError
    from localllm.config.errors import ConfigError
    from localllm.contract.errors import ModelFileError
    from localllm.plugin_discovery import PluginError

    try:
        yield
    except ConfigError as error:
        problems, code = list(error.problems), CONFIG_ERROR
    except PluginError as error:
        problems, code = [str(error)], CONFIG_ERROR
    except ModelFileError as error:
        problems, code = [error.message], CONFIG_ERROR
    except AnswerError as error:
        problems, code = [error.message], RUNTIME_ERROR
    except ServerUnreachableError as error:
        problems, code = [str(error)], UNREACHABLE
    else:
        return
    for problem in problems:
        typer.echo(problem, err=True)
    raise typer.Exit(code)
