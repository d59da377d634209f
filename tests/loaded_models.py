"""Models that a test loads into its own process; all are freed when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from localllm import LoadRequest, Mode
from localllm_llama_cpp.loader import LlamaModel, load
from localllm_llama_cpp.pool_loader import LlamaPoolerModel

LoadModel = Callable[..., LlamaModel]
LoadPooler = Callable[..., LlamaPoolerModel]


@contextmanager
def loading() -> Iterator[LoadModel]:
    """Lend what loads a file with settings to generate."""
    with ExitStack() as loaded:

        def load_file(path: Path, *, safe_mode: bool = False, **settings: Any) -> LlamaModel:
            model = load(LoadRequest("tiny", str(path), Mode.GENERATE, settings, safe_mode))
            assert isinstance(model, LlamaModel)
            loaded.callback(model.close)
            return model

        yield load_file


@contextmanager
def loading_poolers() -> Iterator[LoadPooler]:
    """Lend what loads a file with settings to pool."""
    with ExitStack() as loaded:

        def load_file(path: Path, **settings: Any) -> LlamaPoolerModel:
            model = load(LoadRequest("tiny", str(path), Mode.POOL, {"threads": 1, **settings}))
            assert isinstance(model, LlamaPoolerModel)
            loaded.callback(model.close)
            return model

        yield load_file
