"""Fixtures for the tests of plugins, loaded by pytest itself wherever localllm is installed. None is automatic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from localllm.testing.app import InProcessServer, ScriptedModels

# Imports of localllm stand inside the fixtures: this file is loaded by every pytest run of the environment.


@pytest.fixture
def localllm_server(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[InProcessServer]]:
    """Return ``serve(plugins, config=None, models=None)``, an async context manager around a server in process.

    Its state lies in the test's own folder. See :func:`localllm.testing.app.serve_in_process`.
    """
    from localllm.testing.app import serve_in_process

    def serve(
        plugins: Mapping[str, str | ModuleType],
        config: Mapping[str, Any] | None = None,
        models: ScriptedModels | None = None,
    ) -> AbstractAsyncContextManager[InProcessServer]:
        return serve_in_process(plugins, tmp_path, config=config, models=models)

    return serve


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """Return a GGUF file of a Llama model with random weights, under 1 MB. Needs the packages gguf and numpy."""
    from localllm.testing.tiny_model import write_tiny_llama

    return write_tiny_llama(tmp_path / "tiny.gguf")
