"""MyLLM's endpoints in process: its shapes, its defaults and ranges, its sentences, sessions, streams that break."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

import localllm_myllm
from localllm import ModelKind, ModelSpec, RequestRules, SamplingParams, TextPrompt
from localllm.contract.errors import ContextLengthExceededError, ModelLoadError, WorkerCrashedError
from localllm.contract.generation import ChoiceFinished, Chunk, Finished, Started, Timings, Usage
from localllm.testing.app import SCRIPTED_DIMENSIONS, ScriptedModels

GENERATE, CHAT, EMBEDDINGS, MODELS = (f"/api/{name}" for name in ("generate", "chat", "embeddings", "models"))
HI = [{"role": "user", "content": "Hi"}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


@pytest.fixture
def server(make_server: Any) -> Any:
    return make_server(localllm_myllm)


def sampling(server: Any) -> SamplingParams:
    found: SamplingParams = server.client.requests[-1].sampling
    return found


def test_a_whole_text(server: Any) -> None:
    answer = server.post(GENERATE, {"model": "demo", "prompt": "Once", "stream": False})
    assert answer.json == {"text": "Hello world", "usage": USAGE}
    assert server.client.requests[0].prompt == TextPrompt("Once")


def test_a_text_is_streamed_unless_the_request_says_otherwise(server: Any) -> None:
    expected = [
        {"token": "Hello", "done": False},
        {"token": " world", "done": False},
        {"done": True, "full_text": "Hello world", "token_count": 2},
    ]
    for stream in ({}, {"stream": None}, {"stream": True}):
        answer = server.post(GENERATE, {"model": "demo", "prompt": "Once", **stream})
        assert [json.loads(line) for line in answer.lines] == expected  # and nothing like [DONE] behind it


def test_a_message(server: Any) -> None:
    body = {"model": "demo", "messages": HI}
    message = {"role": "assistant", "content": "Hello world"}
    whole = server.post(CHAT, {**body, "stream": False}).json
    assert whole == {"message": message, "session_id": None, "usage": USAGE}
    assert [json.loads(line) for line in server.post(CHAT, body).lines] == [
        {"token": "Hello", "done": False},
        {"token": " world", "done": False},
        {"done": True, "session_id": None, "usage": USAGE},
    ]
    assert server.client.requests[0].prompt.messages == ({"role": "user", "content": "Hi"},)


def test_what_interceptors_tell_stands_in_the_answer(make_server: Any) -> None:
    def script(_request: Any) -> list[Any]:
        noted = Started(3, ("It rains.",), fields={"session_id": "sess-1", "left_out": 2})
        return [noted, Chunk(0, "Hi", 1), ChoiceFinished(0, "stop"), Finished(Usage(3, 1), Timings(0, 1, 1))]

    server = make_server(localllm_myllm, script)
    whole = server.post(CHAT, {"model": "demo", "messages": HI, "stream": False}).json
    last = json.loads(server.post(CHAT, {"model": "demo", "messages": HI}).lines[-1])
    for found in (whole, last):
        assert (found["session_id"], found["left_out"], found["warnings"]) == ("sess-1", 2, ["It rains."])


def test_thoughts_are_not_part_of_the_text(make_server: Any) -> None:
    def script(_request: Any) -> list[Any]:
        thought = Chunk(0, "Hm.", 1, region="reasoning")
        return [
            Started(3),
            thought,
            Chunk(0, "Hi", 1),
            ChoiceFinished(0, "stop"),
            Finished(Usage(3, 2), Timings(0, 1, 1)),
        ]

    server = make_server(localllm_myllm, script)
    events = server.post(CHAT, {"model": "demo", "messages": HI}).events
    assert [event.get("token") for event in events] == ["Hi", None]


# --- options ---------------------------------------------------------------------------------------------------------


def test_the_defaults_of_its_manual(server: Any) -> None:
    server.post(GENERATE, {"model": "demo", "prompt": "x", "options": {"stop": [], "seed": None}})
    found = sampling(server)
    assert (found.temperature, found.top_p, found.top_k, found.max_tokens) == (0.7, 0.9, 40, 512)
    assert (found.repeat_penalty, found.stop, found.n) == (1.1, (), 1)


@pytest.mark.parametrize("path", [GENERATE, CHAT])
def test_options_reach_the_model(server: Any, path: str) -> None:
    options = {
        "temperature": 0, "top_p": 0.5, "top_k": 0, "max_tokens": 3, "stop": ["\n4.", "###"], "repeat_penalty": 1.3,
        "seed": 7, "min_p": 0.1,
        # about other things than how one answer is written
        "n": 5, "stream": False, "messages": [], "model": "other", "logprobs": True, "tools": [{}], "nonsense": 1,
    }  # fmt: skip
    body = {"model": "demo", "prompt": "x", "messages": HI, "options": options, "temperature": 1.5, "n": 3}
    assert json.loads(server.post(path, body).lines[-1])["done"]
    found = sampling(server)
    assert (found.temperature, found.top_p, found.top_k, found.max_tokens) == (0, 0.5, 0, 3)
    assert (found.stop, found.repeat_penalty, found.seed, found.min_p) == (("\n4.", "###"), 1.3, 7, 0.1)
    assert (found.n, found.logprobs) == (1, None)


def test_no_penalty_is_not_a_division_by_zero(server: Any) -> None:
    server.post(GENERATE, {"model": "demo", "prompt": "x", "options": {"repeat_penalty": 0}})
    assert sampling(server).repeat_penalty == 1.0


@pytest.mark.parametrize("path", [GENERATE, CHAT])
@pytest.mark.parametrize(
    ("name", "bad", "sentence"),
    [
        ("temperature", [2.01, -0.1, 1e308], "temperature must be between 0.0 and 2.0"),
        ("top_p", [1.5, -1], "top_p must be between 0.0 and 1.0"),
        ("top_k", [-1], "top_k must be at least 0"),
        ("top_k", [1.5], "top_k must be an integer"),
        ("max_tokens", [0, -1], "max_tokens must be at least 1"),
        ("repeat_penalty", [-0.1, 11], "repeat_penalty must be between 0.0 and 10.0"),
        ("temperature", ["hot", True, [], {}], "temperature must be a number"),
    ],
)
def test_ranges(server: Any, path: str, name: str, bad: list[Any], sentence: str) -> None:
    for value in bad:
        answer = server.post(path, {"model": "demo", "prompt": "x", "messages": HI, "options": {name: value}})
        assert (answer.status, answer.json) == (400, {"detail": sentence}), value


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        (GENERATE, {"prompt": "x"}, "model is required"),
        (GENERATE, {"model": None, "prompt": "x"}, "model is required"),
        (GENERATE, {"model": 5, "prompt": "x"}, "model must be a string"),
        (GENERATE, {"model": "demo"}, "prompt is required"),
        (GENERATE, {"model": "demo", "prompt": ["x"]}, "prompt must be a string"),
        (GENERATE, {"model": "demo", "prompt": "x", "stream": "yes"}, "stream must be true or false"),
        (GENERATE, {"model": "demo", "prompt": "x", "options": []}, "options must be an object"),
        (CHAT, {"model": "demo"}, "messages is required"),
        (CHAT, {"model": "demo", "messages": []}, "messages must not be empty."),
        (CHAT, {"model": "demo", "messages": HI, "session_id": 5}, "session_id must be a string"),
        (EMBEDDINGS, {"model": "demo"}, "input is required"),
        (EMBEDDINGS, {"model": "demo", "input": ["a", "b"]}, "input must be a string"),
        (EMBEDDINGS, {"model": "demo", "input": ""}, "input must not be empty"),
        (GENERATE, {"model": "gpt-4", "prompt": "x"}, "Model 'gpt-4' not found. Available models: demo"),
        (CHAT, {"model": "gpt-4", "messages": HI}, "Model 'gpt-4' not found. Available models: demo"),
    ],
)
def test_what_is_missing_or_of_another_kind(make_server: Any, path: str, body: Any, sentence: str) -> None:
    models = ScriptedModels([ModelSpec("demo", "scripted")])
    answer = make_server(localllm_myllm, models=models).post(path, body)
    assert answer.json == {"detail": sentence}
    assert answer.status == (404 if "not found" in sentence else 400)
    assert models.model.requests == []


def test_only_so_many_models_are_named(make_server: Any) -> None:
    models = ScriptedModels([ModelSpec(f"m{number}", "scripted") for number in range(30)])
    answer = make_server(localllm_myllm, models=models).post(GENERATE, {"model": "x" * 500, "prompt": "x"})
    assert answer.json["detail"].endswith("m18, m19 and 10 more")
    assert len(answer.json["detail"]) < 500


@pytest.mark.parametrize("stream", [True, False])
def test_a_prompt_that_is_too_long(make_server: Any, stream: bool) -> None:
    server = make_server(localllm_myllm, lambda _request: [ContextLengthExceededError(5000, 4096)])
    for path in (GENERATE, CHAT):
        answer = server.post(path, {"model": "demo", "prompt": "x", "messages": HI, "stream": stream})
        assert (answer.status, answer.json) == (400, {"detail": "Prompt too long for context window (4096 tokens)"})
    assert (server.client.running, server.models.in_use) == (0, 0)


def test_an_unknown_session_without_a_plugin_that_keeps_any(server: Any) -> None:
    answer = server.post(CHAT, {"model": "demo", "messages": HI, "session_id": "550e8400"})
    assert (answer.status, list(answer.json)) == (400, ["detail"])
    assert "sessions" in answer.json["detail"]


def test_what_of_ours_is_503_stays_503(make_server: Any) -> None:
    server = make_server(localllm_myllm, lambda _request: [ModelLoadError("It did not come up.")])
    answer = server.post(GENERATE, {"model": "demo", "prompt": "x"})
    assert (answer.status, answer.json) == (503, {"detail": "It did not come up."})


def test_a_fault_of_ours_says_where_to_look_it_up(make_server: Any) -> None:
    server = make_server(localllm_myllm, lambda _request: [ZeroDivisionError("secret")])
    answer = server.post(GENERATE, {"model": "demo", "prompt": "x", "stream": False})
    assert (answer.status, list(answer.json)) == (500, ["detail"])
    assert "request id" in answer.json["detail"]
    assert "secret" not in answer.body.decode()


@pytest.mark.parametrize("path", [GENERATE, CHAT])
def test_a_stream_that_breaks_ends_with_its_detail_and_is_never_done(make_server: Any, path: str) -> None:
    crash = WorkerCrashedError("The model's worker died of SIGSEGV.")
    server = make_server(localllm_myllm, lambda _request: [Started(7), Chunk(0, "Hel", 1), crash])
    answer = server.post(path, {"model": "demo", "prompt": "x", "messages": HI})
    assert [json.loads(line) for line in answer.lines] == [
        {"token": "Hel", "done": False},
        {"detail": "The model's worker died of SIGSEGV."},
    ]


def test_events_that_end_without_an_end_are_an_error(make_server: Any) -> None:
    server = make_server(localllm_myllm, lambda _request: [Started(7), Chunk(0, "Hel", 1)])
    assert server.post(GENERATE, {"model": "demo", "prompt": "x", "stream": False}).status == 502
    assert list(json.loads(server.post(GENERATE, {"model": "demo", "prompt": "x"}).lines[-1])) == ["detail"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [GENERATE, CHAT])
def test_a_client_that_leaves_frees_the_model(make_server: Any, path: str, stream: bool) -> None:
    async def scenario() -> None:
        begun, never = asyncio.Event(), asyncio.Event()

        def hang(_request: Any) -> Any:
            yield Started(7)
            yield Chunk(0, "Hel", 1)
            begun.set()
            yield never

        server = make_server(localllm_myllm, hang)
        body = {"model": "demo", "prompt": "x", "messages": HI, "stream": stream}
        task = asyncio.create_task(server.request(path, body, leave=begun))
        await asyncio.wait_for(server.client.idle.wait(), 10)
        await asyncio.wait([task], timeout=10)
        assert task.done()
        task.exception()
        assert (server.client.running, server.client.cancelled, server.models.in_use) == (0, 1, 0)

    asyncio.run(scenario())


# --- what a model's configuration says -------------------------------------------------------------------------------


def with_rules(make_server: Any, **rules: Any) -> Any:
    server = make_server(localllm_myllm)
    server.models.spec = replace(server.models.spec, rules=RequestRules(**rules))
    return server


def test_a_models_defaults_count_over_myllms_and_below_the_requests(make_server: Any) -> None:
    defaults = {"temperature": 0.2, "repetition_penalty": 1.5, "max_completion_tokens": 9, "n": 3, "min_p": 0.25}
    server = with_rules(make_server, defaults=defaults, system_prompt="Be brief.")
    server.post(CHAT, {"model": "demo", "messages": HI, "options": {"temperature": 0.9}})
    found = sampling(server)
    assert (found.temperature, found.repeat_penalty, found.max_tokens, found.min_p) == (0.9, 1.5, 9, 0.25)
    assert (found.n, found.top_p) == (1, 0.9)
    assert server.client.requests[-1].prompt.messages[0] == {"role": "system", "content": "Be brief."}


def test_what_a_model_forces_and_drops(make_server: Any) -> None:
    server = with_rules(make_server, force={"temperature": 0.1, "n_predict": 4}, strip=("stop",))
    body = {"model": "demo", "prompt": "x", "options": {"temperature": 0.9, "max_tokens": 99, "stop": ["."]}}
    server.post(GENERATE, body)
    found = sampling(server)
    assert (found.temperature, found.max_tokens, found.stop) == (0.1, 4, ())


# --- vectors and models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["chat", "embedder"])
def test_a_vector_by_any_model_that_can(make_server: Any, pooling_models: Any, model: str) -> None:
    server = make_server(localllm_myllm, models=pooling_models)
    body = server.post(EMBEDDINGS, {"model": model, "input": "Hello, world!"}).json
    assert list(body) == ["embedding", "model"]
    assert len(body["embedding"]) == SCRIPTED_DIMENSIONS
    assert all(type(value) is float for value in body["embedding"])
    assert body["model"] == model


def test_a_reranker_gives_no_vectors(make_server: Any, pooling_models: Any) -> None:
    answer = make_server(localllm_myllm, models=pooling_models).post(EMBEDDINGS, {"model": "reranker", "input": "x"})
    assert (answer.status, list(answer.json)) == (400, ["detail"])


def test_the_models(make_server: Any) -> None:
    meta = {
        "arch": "llama",
        "size": 668_788_096,
        "quantisation": "Q4_K_M",
        "n_ctx_train": 2048,
        "has_chat_template": True,
    }
    rules = RequestRules(defaults={"temperature": 0.2}, force={"top_p": 1.0})
    specs = [
        ModelSpec("tiny", "llama_cpp", meta=meta, rules=rules),
        ModelSpec("set", "llama_cpp", settings={"context_length": 512, "chat_format": "llama-3"}),
        ModelSpec("other", "echo", kind=ModelKind.EMBEDDING),
    ]
    models = ScriptedModels(specs)
    models.loaded = lambda model_id: models.model.info if model_id == "other" else None  # type: ignore[method-assign]
    server = make_server(localllm_myllm, models=models)
    tiny, preset, other = server.get(MODELS).json["models"]
    assert tiny == {
        "name": "tiny",
        "family": "llama",
        "size_mb": 637,
        "quantization": "Q4_K_M",
        "context_size": 2048,
        "template": "gguf",
        "parameters": {"temperature": 0.2, "top_p": 1.0, "top_k": 40, "max_tokens": 512, "repeat_penalty": 1.1},
        "loaded": False,
    }
    assert (preset["context_size"], preset["template"], preset["size_mb"]) == (512, "llama-3", 0)
    assert (other["family"], other["loaded"], other["context_size"]) == ("echo", True, 2048)
