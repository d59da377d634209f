"""What gguf-openai-api's manual prints: requests are sent as they stand, answers have its shape, examples run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.real_models.conftest import ROOT
from tests.seeds.shape import extras

pytestmark = [pytest.mark.real_model, pytest.mark.process]

MODEL = "EvaGPT-German-X-LlamaTok-DE-7B-f16"
CHATS: dict[str, dict[str, Any]] = {
    "reference": {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Du bist ein hilfreicher Assistent."},
            {"role": "user", "content": "Erklär mir kurz, was ein GGUF-Modell ist."},
        ],
        "max_tokens": -1,
        "temperature": 0.7,
        "top_p": 0.95,
        "stream": False,
    },
    "curl": {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Schreib mir einen kurzen deutschen Satz."}],
        "max_tokens": -1,
        "stream": False,
    },
}


def test_health(http: httpx.Client) -> None:
    printed = {"status": "ok", "default_model": MODEL, "models": [MODEL, "Meta-Llama-3-8B-Instruct.Q4_K_M"]}
    body = http.get("/health").json()
    assert extras(printed, body) == set()
    assert body["default_model"] in body["models"]


def test_models(http: httpx.Client) -> None:
    entry = {"id": MODEL, "object": "model", "owned_by": "local", "root": f"./models/{MODEL}.gguf"}
    body = http.get("/v1/models").json()
    found = extras({"object": "list", "data": [entry]}, body)
    assert found == {
        "models",
        *(
            f"data[].{name}"
            for name in (
                "aliases",
                "capabilities",
                "created",
                "defaults",
                "forced",
                "loaded",
                "max_model_len",
                "meta",
                "name",
                "pinned",
                "state",
                "status",
                "tags",
                "ttl_seconds",
                "type",
            )
        ),
    }
    assert body["data"][0]["root"].rpartition("/")[2] == "localllm-demo.gguf"


@pytest.mark.parametrize("name", CHATS)
def test_chat(http: httpx.Client, name: str) -> None:
    response = http.post("/v1/chat/completions", json=CHATS[name])
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize("limit", [-1, None])
def test_no_limit_lets_the_model_decide(http: httpx.Client, limit: int | None) -> None:
    body = {**CHATS["curl"], "max_tokens": limit, "temperature": 0.0}
    assert http.post("/v1/chat/completions", json=body).json()["choices"][0]["finish_reason"] == "stop"


def test_the_default_model_answers_where_none_is_named(http: httpx.Client) -> None:
    body = {name: value for name, value in CHATS["curl"].items() if name != "model"}
    default = http.get("/health").json()["default_model"]
    assert http.post("/v1/chat/completions", json=body).json()["model"] == default


CLIENT = """
from openai import OpenAI

client = OpenAI(
    base_url="http://127.0.0.1:8000/v1",
    api_key="not-needed",  # wird ignoriert
)

resp = client.chat.completions.create(
    model="EvaGPT-German-X-LlamaTok-DE-7B-f16",
    messages=[
        {"role": "system", "content": "Du bist ein hilfreicher Assistent."},
        {"role": "user", "content": "Was ist der Unterschied zwischen CPU und GPU?"}
    ],
    max_tokens=-1,
)

print(resp.choices[0].message.content)
"""

STREAM = """
stream = client.chat.completions.create(
    model="EvaGPT-German-X-LlamaTok-DE-7B-f16",
    messages=[
        {"role": "user", "content": "Erzähl mir eine kurze Geschichte."}
    ],
    stream=True,
)

for chunk in stream:
    delta = chunk.choices[0].delta
    if delta.content:
        print(delta.content, end="", flush=True)
print()
"""


def test_python_client(run_python: Callable[[str], str]) -> None:
    assert run_python(CLIENT).strip()


def test_python_client_streams(run_python: Callable[[str], str]) -> None:
    whole = run_python(CLIENT + 'print("----")' + STREAM)
    assert whole.partition("----")[2].strip()


def test_its_environment_file_goes_on_working() -> None:
    from localllm.config.layers import FOREIGN_VARIABLES

    printed = {
        "GGUF_MODELS_DIR": "models.directory",
        "LLAMA_N_CTX": "plugin.llama_cpp.context_length",
        "LLAMA_N_GPU_LAYERS": "plugin.llama_cpp.n_gpu_layers",
        "LLAMA_N_BATCH": "plugin.llama_cpp.n_batch",
        "LLAMA_N_THREADS": "plugin.llama_cpp.threads",
        "LLAMA_LOG_LEVEL": "log.level",
    }
    assert {name: FOREIGN_VARIABLES[name] for name in printed} == printed


def test_there_is_a_unit_for_systemd() -> None:
    assert Path(ROOT / "deploy" / "localllm.service").is_file()
