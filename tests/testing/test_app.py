"""The test kit for plugin authors does what its documentation says."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from starlette.routing import Route

from localllm import hookimpl
from localllm.config.errors import ConfigError
from localllm.contract.errors import OverloadedError
from localllm.contract.generation import ChatPrompt
from localllm.contract.model import Mode, ModelKind, ModelSpec
from localllm.models.gguf import read_header
from localllm.plugin_discovery import PluginError
from localllm.testing.app import InProcessServer, ScriptedModels
from localllm.testing.scripted_pooling import scripted_score, scripted_vector

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
PLUGINS = {"chat": "localllm_chat"}


def run(serve: Callable[..., Any], scenario: Callable[[InProcessServer], Any], **options: Any) -> Any:
    async def whole() -> Any:
        async with serve(PLUGINS, **options) as server:
            return await scenario(server)

    return asyncio.run(whole())


def test_a_scripted_model_answers_and_remembers(localllm_server: Callable[..., Any]) -> None:
    async def scenario(server: InProcessServer) -> None:
        server.model.answers += ["First answer", OverloadedError("The queue is full.")]
        first = (await server.client.post("/v1/chat/completions", json=CHAT)).json()
        assert first["choices"][0]["message"]["content"] == "First answer"
        assert first["usage"]["completion_tokens"] == 2
        second = await server.client.post("/v1/chat/completions", json=CHAT)
        assert (second.status_code, second.json()["error"]["code"]) == (503, "overloaded")
        third = (await server.client.post("/v1/chat/completions", json={**CHAT, "n": 2})).json()
        assert [choice["message"]["content"] for choice in third["choices"]] == ["Hello there"] * 2
        assert [request.sampling.n for request in server.model.requests] == [1, 1, 2]
        assert isinstance(server.model.requests[0].prompt, ChatPrompt)
        assert (server.model.n_open, server.models.n_acquired) == (0, 0)

    run(localllm_server, scenario)


def test_a_stream_through_the_kit(localllm_server: Callable[..., Any]) -> None:
    async def scenario(server: InProcessServer) -> str:
        return (await server.client.post("/v1/chat/completions", json={**CHAT, "stream": True})).text

    text = run(localllm_server, scenario)
    assert '"Hello"' in text
    assert '" there"' in text
    assert text.endswith("data: [DONE]\n\n")


def test_models_by_name_and_kind(localllm_server: Callable[..., Any]) -> None:
    models = ScriptedModels([ModelSpec("a", "x", aliases=("b",)), ModelSpec("e", "x", kind=ModelKind.EMBEDDING)])

    async def scenario(server: InProcessServer) -> list[int]:
        return [
            (await server.client.post("/v1/chat/completions", json={**CHAT, "model": model})).status_code
            for model in ("a", "b", "c", "e")
        ]

    assert run(localllm_server, scenario, models=models) == [200, 200, 404, 400]
    assert models.resolve("e", Mode.POOL).id == "e"


def test_texts_and_pairs_through_the_kit(localllm_server: Callable[..., Any]) -> None:
    kinds = [ModelKind.CHAT, ModelKind.EMBEDDING, ModelKind.RERANKER]
    models = ScriptedModels([ModelSpec(kind.value, "x", kind=kind) for kind in kinds])

    async def scenario() -> None:
        plugins = {"embeddings": "localllm_embeddings", "rerank": "localllm_rerank"}
        async with localllm_server(plugins, models=models) as server:
            texts = ["red fox", "a fox", "blue"]
            body = (await server.client.post("/v1/embeddings", json={"input": texts})).json()
            assert body["model"] == "embedding"
            vectors = [item["embedding"] for item in body["data"]]
            assert vectors == [pytest.approx(scripted_vector(text)) for text in texts]
            question = {"query": "fox", "documents": texts, "raw_scores": True}
            body = (await server.client.post("/v1/rerank", json=question)).json()
            assert body["model"] == "reranker"
            scores = {result["index"]: result["relevance_score"] for result in body["results"]}
            assert scores == {index: scripted_score("fox", text) for index, text in enumerate(texts)}
            server.model.answers.append(OverloadedError("The queue is full."))
            assert (await server.client.post("/v1/rerank", json=question)).status_code == 503
            assert [len(request.inputs) for request in server.model.pool_requests] == [3, 3, 3]
            assert (server.model.n_open, server.models.n_acquired) == (0, 0)

    asyncio.run(scenario())


def test_the_configuration_counts(localllm_server: Callable[..., Any]) -> None:
    async def scenario(server: InProcessServer) -> list[int]:
        refused = await server.client.post("/v1/chat/completions", json=CHAT)
        allowed = await server.client.post("/v1/chat/completions", json=CHAT, headers={"x-api-key": "sk"})
        return [refused.status_code, allowed.status_code]

    assert run(localllm_server, scenario, config={"server": {"api_keys": ["sk"]}}) == [401, 200]


def test_faults_are_refused_as_at_a_real_start(localllm_server: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"did you mean server\.port"):
        run(localllm_server, lambda server: server, config={"server": {"prot": 1}})
    with pytest.raises(PluginError, match="importing no_such_module failed"):
        asyncio.run(localllm_server({"x": "no_such_module"}).__aenter__())


def test_the_core_s_routes_are_its_own(localllm_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    thief = ModuleType("thief")

    @hookimpl
    def localllm_register_routes(register: Callable[..., None]) -> None:
        register(Route("/health", print), name="mine")

    thief.localllm_register_routes = localllm_register_routes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "thief", thief)
    with pytest.raises(PluginError, match=r"plugin 'thief' \(.+ .+\): the route 'mine' \(/health\) is the core's own"):
        asyncio.run(localllm_server({"thief": thief}).__aenter__())


def test_the_tiny_model_is_a_model(tiny_gguf: Path) -> None:
    header = read_header(tiny_gguf)
    assert (header.architecture, header.role, header.has_chat_template) == ("llama", "model", True)


def test_the_fixtures_are_there_from_any_folder_and_none_is_automatic(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--fixtures", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False).stdout
    assert "localllm_server" in output
    assert "tiny_gguf" in output
    assert "autouse" not in output
