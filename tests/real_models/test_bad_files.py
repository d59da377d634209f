"""Model files that broke on their way: each request for one says what is wrong, and the server goes on answering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from localllm.testing.tiny_model import corrupt_gguf, truncate_gguf, write_tiny_llama
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
