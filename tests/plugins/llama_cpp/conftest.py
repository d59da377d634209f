from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.testing.tiny_model import write_tiny_llama
from tests.loaded_models import LoadModel, LoadPooler, loading, loading_poolers


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def load_model() -> Iterator[LoadModel]:
    """Load a file with settings; what was loaded is freed at the end of the test."""
    with loading() as load:
        yield load


@pytest.fixture
def load_pooler() -> Iterator[LoadPooler]:
    """Load a file to pool, with settings; what was loaded is freed at the end of the test."""
    with loading_poolers() as load:
        yield load
