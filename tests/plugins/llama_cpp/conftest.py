from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from localllm import LoadRequest, Mode
from localllm.testing.tiny_model import write_tiny_llama
from localllm_llama_cpp.loader import LlamaModel, load
from localllm_llama_cpp.pool_loader import LlamaPoolerModel

LoadModel = Callable[..., LlamaModel]
LoadPooler = Callable[..., LlamaPoolerModel]


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def load_model() -> Iterator[LoadModel]:
    """Load a file with settings; what was loaded is freed at the end of the test."""
    loaded: list[LlamaModel] = []

    def load_file(path: Path, *, safe_mode: bool = False, **settings: Any) -> LlamaModel:
        model = load(LoadRequest("tiny", str(path), Mode.GENERATE, settings, safe_mode))
        assert isinstance(model, LlamaModel)
        loaded.append(model)
        return model

    yield load_file
    for model in loaded:
        model.close()


@pytest.fixture
def load_pooler() -> Iterator[LoadPooler]:
    """Load a file to pool, with settings; what was loaded is freed at the end of the test."""
    loaded: list[LlamaPoolerModel] = []

    def load_file(path: Path, **settings: Any) -> LlamaPoolerModel:
        model = load(LoadRequest("tiny", str(path), Mode.POOL, {"threads": 1, **settings}))
        assert isinstance(model, LlamaPoolerModel)
        loaded.append(model)
        return model

    yield load_file
    for model in loaded:
        model.close()
