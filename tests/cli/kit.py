"""Runs commands as the shell would, in this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from localllm.cli import app
from tests.stub_server import Stub


def run(*arguments: str, code: int = 0, typed: str | None = None) -> Result:
    """Run ``localllm`` with these arguments and what is typed, and check how it ends."""
    result = CliRunner().invoke(app, list(arguments), input=typed, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def chat(stub: Stub, lines: str, *arguments: str, code: int = 0) -> Result:
    """Run ``localllm chat`` against a server, with one question a line."""
    return run("chat", "--url", stub.url, *arguments, code=code, typed=lines)
