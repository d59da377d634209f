"""Every endpoint that names a model heeds what the configuration says of that model's requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import localllm_chat
import localllm_completions
import localllm_embeddings
import localllm_rerank
import localllm_tokenize
from localllm.contract.errors import InvalidRequestError, ModelNotFoundError
from localllm.contract.generation import ChatPrompt, TextPrompt
from localllm.contract.model import ModelKind, ModelSpec, RequestRules
from localllm.contract.texts import RenderRequest, TokenizeRequest
from localllm.testing.app import InProcessServer, ScriptedModels, serve_in_process

PLUGINS = {
    "chat": localllm_chat,
    "completions": localllm_completions,
    "embeddings": localllm_embeddings,
    "rerank": localllm_rerank,
    "tokenize": localllm_tokenize,
}
USER = {"role": "user", "content": "Hi"}
CHAT = {"messages": [USER]}


def models(**rules: Any) -> ScriptedModels:
    """One model of each kind with the same rules, each with an alias, and one without any."""
    kinds = {"writer": ModelKind.CHAT, "embedder": ModelKind.EMBEDDING, "ranker": ModelKind.RERANKER}
    specs = [
        ModelSpec(name, "scripted", kind=kind, aliases=(f"{name}-too",), rules=RequestRules(**rules))
        for name, kind in kinds.items()
    ]
    return ScriptedModels([*specs, ModelSpec("plain", "scripted")])


@asynccontextmanager
async def serving(folder: Path, **rules: Any) -> AsyncIterator[InProcessServer]:
    async with serve_in_process(PLUGINS, folder, models=models(**rules)) as server:
        yield server


def ask(folder: Path, path: str, body: dict[str, Any], **rules: Any) -> tuple[Any, InProcessServer]:
    async def run() -> tuple[Any, InProcessServer]:
        async with serving(folder, **rules) as server:
            return await server.client.post(path, json=body), server

    return asyncio.run(run())


@pytest.mark.parametrize("name", [{}, {"model": "writer"}, {"model": "writer-too"}], ids=["default", "id", "alias"])
@pytest.mark.parametrize(("path", "content"), [("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "x"})])
def test_text_is_written_by_the_models_rules(
    tmp_path: Path, name: dict[str, str], path: str, content: dict[str, Any]
) -> None:
    body = {**content, **name, "temperature": 1.5, "seed": 9, "top_p": 0.3}
    response, server = ask(
        tmp_path, path, body, defaults={"max_tokens": 5, "top_p": 0.9}, strip=("temperature",), force={"seed": 3}
    )
    assert response.status_code == 200, response.text
    sampling = server.model.requests[0].sampling
    assert (sampling.max_tokens, sampling.top_p, sampling.temperature, sampling.seed) == (5, 0.3, None, 3)


def test_other_models_have_rules_of_their_own(tmp_path: Path) -> None:
    body = {**CHAT, "model": "plain"}
    response, server = ask(tmp_path, "/v1/chat/completions", body, system_prompt="S", defaults={"max_tokens": 5})
    assert response.status_code == 200
    [request] = server.model.requests
    assert request.sampling.max_tokens is None
    assert request.prompt == ChatPrompt((USER,))


def test_a_system_prompt_is_in_chats_and_in_what_is_told_of_them(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, system_prompt="Be kind.") as server:
            for path in ("/v1/chat/completions", "/apply-template", "/tokenize", "/chat/completions/input_tokens"):
                assert (await server.client.post(path, json=CHAT)).status_code == 200
            assert (await server.client.post("/v1/completions", json={"prompt": "x"})).status_code == 200
            chat, completion = [request.prompt for request in server.model.requests]
            asked = [chat, *(one.prompt for one in server.model.text_requests if not hasattr(one, "tokens"))]
            assert completion == TextPrompt("x")
            assert len(asked) == 4
            assert all(isinstance(one, RenderRequest | TokenizeRequest) for one in server.model.text_requests)
            for prompt in asked:
                assert isinstance(prompt, ChatPrompt)
                assert prompt.messages == ({"role": "system", "content": "Be kind."}, USER)

    asyncio.run(run())


def test_vectors_are_made_by_the_models_rules(tmp_path: Path) -> None:
    body = {"input": "text", "model": "embedder", "encoding_format": "base64"}
    response, server = ask(
        tmp_path,
        "/v1/embeddings",
        body,
        defaults={"dimensions": 2},
        strip=("encoding_format",),
        force={"truncate": True},
    )
    assert response.status_code == 200, response.text
    assert len(response.json()["data"][0]["embedding"]) == 2
    assert server.model.pool_requests[0].truncate


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked_by_the_models_rules(tmp_path: Path, path: str) -> None:
    body = {"query": "q", "documents": ["a", "b", "c"], "model": "ranker", "max_tokens_per_doc": 1}
    response, server = ask(tmp_path, path, body, defaults={"top_n": 1}, strip=("max_tokens_per_doc",))
    assert response.status_code == 200, response.text
    assert len(response.json()["results"]) == 1
    assert {request.max_document_tokens for request in server.model.pool_requests} == {None}


def test_what_is_stripped_may_be_about_the_model_itself(tmp_path: Path) -> None:
    body = {**CHAT, "keep_alive": "not a time"}
    response, _ = ask(tmp_path, "/v1/chat/completions", body, strip=("keep_alive",))
    assert response.status_code == 200, response.text
    assert ask(tmp_path, "/v1/chat/completions", body)[0].status_code == 400


def test_a_name_that_is_none_is_the_callers_fault(tmp_path: Path) -> None:
    response, _ = ask(tmp_path, "/v1/chat/completions", {**CHAT, "model": 5}, force={"seed": 1})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "model")
    response, _ = ask(tmp_path, "/v1/chat/completions", {**CHAT, "model": "none"}, force={"seed": 1})
    assert response.json()["error"]["code"] == ModelNotFoundError.code


MISTAKE = {"temperature": 7}


@pytest.mark.parametrize("table", ["defaults", "force"])
def test_a_wrong_value_of_the_configuration_is_not_blamed_on_the_caller(
    tmp_path: Path, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        response, _ = ask(tmp_path, "/v1/chat/completions", CHAT, **{table: MISTAKE})
    error = response.json()["error"]
    assert response.status_code == 500
    assert response.headers["x-should-retry"] == "false"
    assert (error["code"], error["type"], error["param"]) == ("model_misconfigured", "server_error", None)
    assert error["field"] == "temperature"
    assert error["message"] == (
        "The configuration of model 'writer' sets temperature to what can't be used here: temperature must be at most "
        "2, but it is 7. Mend models.define.writer, or name another model."
    )
    assert error["message"] in caplog.text


def test_a_callers_own_mistake_stays_the_callers(tmp_path: Path) -> None:
    response, _ = ask(tmp_path, "/v1/chat/completions", {**CHAT, "temperature": 9}, defaults=MISTAKE)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "temperature")
    response, _ = ask(tmp_path, "/v1/chat/completions", {**CHAT, "top_p": 9}, force={"seed": 1})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "top_p")
    response, _ = ask(tmp_path, "/v1/chat/completions", {"messages": [USER, {"role": "user"}]}, system_prompt="S")
    assert response.json()["error"]["param"] == "messages[1].content"


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_model_itself_refuses_later_is_blamed_alike(tmp_path: Path, stream: bool) -> None:
    async def run() -> Any:
        async with serving(tmp_path, force={"response_format": {"type": "json_object"}}) as server:
            server.model.answers.append(
                InvalidRequestError("It can't be compiled.", param="response_format.json_schema")
            )
            return await server.client.post("/v1/chat/completions", json={**CHAT, "stream": stream})

    response = asyncio.run(run())
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "model_misconfigured"


def test_models_tell_which_fields_are_set_for_them(tmp_path: Path) -> None:
    async def run() -> Any:
        async with serving(
            tmp_path, defaults={"top_p": 1, "seed": 2}, force={"n": 1}, system_prompt="secret"
        ) as server:
            return (await server.client.get("/v1/models")).json()["data"]

    shown = {model["id"]: model for model in asyncio.run(run())}
    assert (shown["writer"]["defaults"], shown["writer"]["forced"]) == (["seed", "top_p"], ["n"])
    assert (shown["plain"]["defaults"], shown["plain"]["forced"]) == ([], [])
    assert "secret" not in str(shown)
