"""Model files that broke on their way: each request for one says what is wrong, and the server goes on answering."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from localllm.config.schema import Config
from localllm.contract.backend import BackendSpec
from localllm.contract.errors import ModelFileError, ModelLoadError
from localllm.contract.model import Mode, ModelSpec
from localllm.host.client import ClientLimits
from localllm.host.launch import LaunchSettings
from localllm.host.loader import LoaderSettings, ModelLoader
from localllm.host.safe_mode import SafeModeMemory
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.plugin_manager import load_plugins
from localllm.testing.tiny_model import corrupt_gguf, truncate_gguf, write_tiny_llama
from tests.conftest import FULL
from tests.models.crafted import LISTED
from tests.models.mutations import mutate
from tests.real_models.conftest import running_server

pytestmark = [pytest.mark.real_model, pytest.mark.process]

WORDS = {
    "truncated": "truncated",  # noticed by our own reader, before anything is started
    "bad_header": "corrupt",
    "not_gguf": "GGUF",
    "missing_tensor": "'blk.0.attn_q.weight' not found",  # noticed by llama.cpp
    "bad_weights": "not a number",  # noticed by nobody but the self-test
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    chat = tmp_path_factory.mktemp("models") / "chat"
    chat.mkdir()
    (chat / demo_model.name).symlink_to(demo_model)
    good = write_tiny_llama(chat.parent.parent / "good.gguf").read_bytes()
    truncate_gguf(demo_model, chat / "truncated.gguf", keep=0.5)
    corrupt_gguf(demo_model, chat / "bad_header.gguf", fault="tensor_count")
    (chat / "not_gguf.gguf").write_text("<!DOCTYPE html>")
    (chat / "missing_tensor.gguf").write_bytes(good.replace(b"blk.0.attn_q.weight", b"blk.0.attn_?.weight"))
    half = len(good) // 2
    (chat / "bad_weights.gguf").write_bytes(good[:half] + b"\xff" * (len(good) - half))
    return chat.parent


def test_each_says_what_is_wrong_and_leaves_the_server_up(folder: Path, tmp_path: Path) -> None:
    def ask(model: str) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "stream": True}
        return client.post("/v1/chat/completions", json=body)

    with running_server(tmp_path, models=folder) as server, httpx.Client(base_url=server.url, timeout=50) as client:
        for model, word in WORDS.items():
            answer = ask(model)
            assert answer.status_code == 422, (model, answer.text)
            error = answer.json()["error"]
            assert error["code"] == "model_file_invalid"
            assert word in error["message"]
            assert model in error["message"]
        assert ask("localllm-demo").text.endswith("data: [DONE]\n\n")
        listed = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert listed == ["localllm-demo", "bad_weights", "missing_tensor"]
    assert sum("truncated.gguf: " in line for line in server.log) == 1, "said once, at the start"


CRAFTED_ANSWERS = {200, 422, 500, 503}
"""It answers, or says what is wrong with the file, or that its worker died."""

BATCH = 5
N_MUTATIONS = 300 if FULL else 40


def test_crafted_files_cost_their_own_requests_and_nothing_else(tmp_path: Path, demo_model: Path) -> None:
    """What our own reader can't see is met by a worker: some of it loads, some of it kills the worker."""
    models = tmp_path / "models"
    (models / "chat").mkdir(parents=True)
    (models / "chat" / demo_model.name).symlink_to(demo_model)
    good = write_tiny_llama(tmp_path / "good.gguf").read_bytes()
    for name, craft in LISTED.items():
        (models / "chat" / f"{name}.gguf").write_bytes(craft(good))

    def ask(model: str) -> httpx.Response:
        body = {"model": model, "prompt": "Hi", "max_tokens": 2, "temperature": 0}
        return client.post("/v1/completions", json=body)

    with running_server(tmp_path, models=models) as server, httpx.Client(base_url=server.url, timeout=55) as client:
        with ThreadPoolExecutor(3) as threads:
            answers = dict(zip(LISTED, threads.map(ask, LISTED), strict=True))
        for model, answer in answers.items():
            assert answer.status_code in CRAFTED_ANSWERS, (model, answer.text)
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert error["code"] in ("model_file_invalid", "model_load_failed"), (model, answer.text)
                assert model in error["message"]
        assert answers["tokens_twice"].json()["error"]["signal"] == "SIGABRT", "GGML_ASSERT in llama-vocab.cpp"
        assert answers["bos_beyond"].status_code == 200
        assert ask("localllm-demo").status_code == 200
        (models / "chat" / "late.gguf").write_bytes(good)
        assert ask("late").status_code == 200, "a file that comes later is served without a restart"


@pytest.fixture(scope="module")
def backend() -> BackendSpec:
    plugins = load_plugins(["llama_cpp"])
    plugins.register(Config())
    return plugins.backends["llama_cpp"]


@pytest.mark.parametrize("first", range(0, N_MUTATIONS, BATCH))
def test_mutated_models_load_or_give_typed_errors(
    tmp_path: Path, demo_model: Path, backend: BackendSpec, first: int
) -> None:
    content = demo_model.read_bytes()
    for seed in range(first, first + BATCH):
        changes = random.Random(seed).randint(1, 3)
        (tmp_path / f"m{seed}.gguf").write_bytes(mutate(content, seed, changes, small=seed % 2 == 0))
    specs = Catalog(CatalogOptions(tmp_path, backend.name, {"threads": 1, "threads_batch": 1})).specs()

    async def load_all() -> Counter[str]:
        settings = LoaderSettings(LaunchSettings(ClientLimits(), load_timeout_seconds=50))
        loader = ModelLoader(settings, SafeModeMemory(tmp_path / "safe.json"), lambda event: None)
        two = asyncio.Semaphore(2)

        async def load(spec: ModelSpec) -> str:
            async with two:
                try:
                    loaded = await loader.load(spec, Mode.GENERATE, backend)
                except (ModelFileError, ModelLoadError) as error:
                    assert error.message
                    return "error"
                await loaded.client.close()
                return "loaded"

        return Counter(await asyncio.gather(*map(load, specs.values())))

    assert asyncio.run(load_all()).total() == len(specs)
