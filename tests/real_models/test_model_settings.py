"""A model with settings of its own, behind a real server: what it is told, what it knows already, what it wears."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from localllm.testing.tiny_lora import write_tiny_lora
from localllm.testing.tiny_model import write_tiny_llama
from tests.real_models.conftest import ROOT, RunningServer, running_server

pytestmark = [pytest.mark.real_model, pytest.mark.process]

USER = {"role": "user", "content": "What is the capital of France?"}
PROMPT = "You are an assistant that answers questions about countries, and nothing else at all."
MODELS = f"""
[models.define.guide]
path = "{ROOT}/models/chat/localllm-demo.gguf"
aliases = ["tour-guide"]
system_prompt = "{PROMPT}"
preload = [[], [{{ role = "user", content = "What is the capital of Spain?" }}]]
defaults = {{ temperature = 0, max_tokens = 3 }}
strip = ["top_p"]
force = {{ n = 1 }}

[models.define.tiny]
path = "base.gguf"
chat_template_file = "shout.jinja"
preload = ["{"too long. " * 400}"]
lora = [{{ path = "formal.gguf", scale = 0.0 }}, {{ path = "other.gguf", name = "rude" }}]
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, RunningServer]]:
    folder: Path = tmp_path_factory.mktemp("settings")
    write_tiny_llama(folder / "base.gguf")
    write_tiny_lora(folder / "formal.gguf", folder / "base.gguf", seed=1)
    write_tiny_lora(folder / "other.gguf", folder / "base.gguf", seed=2)
    (folder / "shout.jinja").write_text("{% for m in messages %}{{ m.content|upper }}!{% endfor %}")
    with running_server(folder, define=MODELS) as server, httpx.Client(base_url=server.url, timeout=50) as asking:
        yield asking, server


def chat(client: httpx.Client, model: str, **fields: Any) -> Any:
    body = {"model": model, "messages": [USER], **fields}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def rendered(client: httpx.Client, model: str, *messages: dict[str, str]) -> str:
    answer = client.post("/apply-template", json={"model": model, "messages": list(messages)}).json()
    return str(answer["prompt"])


def test_the_first_request_finds_the_system_prompt_in_the_cache(client: tuple[httpx.Client, RunningServer]) -> None:
    asking, _ = client
    answer = chat(asking, "tour-guide", top_p=7)
    assert answer["model"] == "guide"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 3
    prompt = rendered(asking, "guide", USER)
    assert PROMPT in prompt
    known = asking.post("/tokenize", json={"model": "guide", "prompt": prompt.partition(USER["content"])[0]}).json()
    assert usage["prompt_tokens_details"]["cached_tokens"] >= known["count"] - 1  # it may add a first token of its own
    spain = {"role": "user", "content": "What is the capital of Spain?"}
    second = chat(asking, "guide", messages=[spain], max_tokens=4)["usage"]
    assert second["completion_tokens"] == 4
    assert second["prompt_tokens"] - second["prompt_tokens_details"]["cached_tokens"] == 1


def test_models_show_which_fields_are_set_and_not_what_they_are_told(
    client: tuple[httpx.Client, RunningServer],
) -> None:
    asking, _ = client
    shown = {model["id"]: model for model in asking.get("/v1/models").json()["data"]}
    assert shown["guide"]["defaults"] == ["max_tokens", "temperature"]
    assert shown["guide"]["forced"] == ["n"]
    assert PROMPT not in str(shown)


def test_a_template_file_and_adapters_count_and_a_preload_that_can_not_be_is_told(
    client: tuple[httpx.Client, RunningServer],
) -> None:
    asking, server = client
    assert rendered(asking, "tiny", {"role": "user", "content": "hi"}) == "HI!"

    def says(**fields: Any) -> str:
        body = {"model": "tiny", "prompt": "the quick brown fox", "temperature": 0, "max_tokens": 8, **fields}
        response = asking.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"])

    usual = says()
    assert says(lora=[{"name": "rude"}]) == usual
    assert says(lora=[{"id": 0, "scale": 1.5}]) != usual
    unknown = asking.post("/v1/completions", json={"model": "tiny", "prompt": "x", "lora": [{"name": "x"}]})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "lora[0]")
    [shown] = [model for model in asking.get("/v1/models").json()["data"] if model["id"] == "tiny"]
    assert shown["meta"]["lora"] == [{"id": 0, "name": "formal", "scale": 0.0}, {"id": 1, "name": "rude", "scale": 1.0}]
    assert [line for line in server.log if "tiny: preload[0] is left out: This model's context holds 512" in line]
