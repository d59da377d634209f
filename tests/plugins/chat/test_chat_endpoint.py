"""The chat endpoint in process: answers, streams, errors before and after the first byte, clients that leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import localllm_chat
from localllm.contract.errors import ContextLengthExceededError, OverloadedError, WorkerCrashedError
from localllm.contract.generation import (
    ChatPrompt,
    ChoiceFinished,
    Chunk,
    Constraint,
    Finished,
    GenerateRequest,
    PromptLogprobs,
    PromptToken,
    Started,
    Timings,
    Usage,
)

PATH = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hi"}]}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def test_whole_answer(make_server: Any) -> None:
    answer = make_server(localllm_chat).post(PATH, HELLO)
    assert answer.status == 200
    body = answer.json
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "demo"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == USAGE
    assert body["timings"]["prompt_n"] == 4


def test_stream(make_server: Any) -> None:
    answer = make_server(localllm_chat).post(PATH, {**HELLO, "stream": True})
    assert answer.status == 200
    assert answer.done
    choices = [event["choices"][0] for event in answer.events]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": " world"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert len({(event["id"], event["created"], event["system_fingerprint"]) for event in answer.events}) == 1
    assert "usage" not in answer.events[-1]
    assert "timings" in answer.events[-1]


def test_stream_with_usage(make_server: Any) -> None:
    body = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    *_, finish, last = make_server(localllm_chat).post(PATH, body).events
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert (last["choices"], last["usage"]) == ([], USAGE)


def test_several_choices_are_told_apart_by_index(make_server: Any) -> None:
    server = make_server(localllm_chat)
    whole = server.post(PATH, {**HELLO, "n": 3}).json
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert whole["usage"]["completion_tokens"] == 6
    texts = dict.fromkeys(range(3), "")
    finishes = []
    for event in server.post(PATH, {**HELLO, "n": 3, "stream": True}).events:
        choice = event["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
        if choice["finish_reason"]:
            finishes.append(choice["index"])
    assert texts == dict.fromkeys(range(3), "Hello world")
    assert sorted(finishes) == [0, 1, 2]


def test_request_reaches_the_model(make_server: Any) -> None:
    server = make_server(localllm_chat)
    server.post(
        PATH, {**HELLO, "temperature": 0, "stop": "x", "seed": 3, "cache_prompt": False, "model": "demo-latest"}
    )
    (request,) = server.client.requests
    assert isinstance(request, GenerateRequest)
    assert request.prompt == ChatPrompt(({"role": "user", "content": "Hi"},))
    assert (request.sampling.temperature, request.sampling.stop, request.sampling.seed) == (0.0, ("x",), 3)
    assert not request.cache_prompt


def test_path_without_version_and_names(make_server: Any) -> None:
    server = make_server(localllm_chat)
    assert server.post("/chat/completions", HELLO).status == 200
    assert server.names == ["chat:/v1/chat/completions", "chat:/chat/completions"]


def test_explicit_nulls_are_absent(make_server: Any) -> None:
    names = [
        *("model", "stream", "stream_options", "n", "temperature", "top_k", "top_p", "min_p", "max_tokens", "stop"),
        *("max_completion_tokens", "presence_penalty", "frequency_penalty", "repeat_penalty", "logit_bias", "seed"),
        *("logprobs", "top_logprobs", "tools", "tool_choice", "response_format", "user", "metadata", "cache_prompt"),
        *("chat_template_kwargs", "reasoning_effort", "functions", "modalities", "audio", "web_search_options"),
        *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "json_schema"),
        *("grammar", "typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base"),
        *("dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "mirostat", "mirostat_tau", "bad_words"),
        *("mirostat_eta", "stop_token_ids", "allowed_token_ids", "prompt_logprobs", "continue_final_message"),
        *("add_generation_prompt", "mirostat_mode", "typical", "function_call", "parallel_tool_calls", "reasoning"),
        *("enable_thinking", "thinking", "thinking_budget", "thinking_budget_tokens", "thinking_token_budget"),
        *("reasoning_budget", "reasoning_budget_tokens", "include_reasoning", "reasoning_format"),
    ]
    server = make_server(localllm_chat)
    assert server.post(PATH, {**HELLO, **dict.fromkeys(names)}).status == 200
    assert server.post(PATH, HELLO).status == 200
    assert server.client.requests[0] == server.client.requests[1]


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_model_is_404(make_server: Any, stream: bool) -> None:
    answer = make_server(localllm_chat).post(PATH, {**HELLO, "model": "nope", "stream": stream})
    assert answer.status == 404
    assert (answer.json["error"]["code"], answer.json["error"]["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
def test_error_before_the_first_byte_is_json_with_its_status(make_server: Any, stream: bool) -> None:
    too_long = make_server(localllm_chat, lambda _request: [ContextLengthExceededError(5000, 2048)])
    answer = too_long.post(PATH, {**HELLO, "stream": stream})
    assert answer.status == 400
    error = answer.json["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (5000, 2048)
    overloaded = make_server(localllm_chat, lambda _request: [OverloadedError("The queue is full.")])
    answer = overloaded.post(PATH, {**HELLO, "stream": stream})
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"


def test_error_mid_stream_is_one_event_and_no_done(make_server: Any) -> None:
    crash = WorkerCrashedError("The model's worker died of SIGSEGV.", detail={"signal": "SIGSEGV"})
    server = make_server(localllm_chat, lambda _request: [Started(7), Chunk(0, "Hel", 1), crash])
    answer = server.post(PATH, {**HELLO, "stream": True})
    assert answer.status == 200
    assert not answer.done
    assert answer.events[-2]["choices"][0]["delta"] == {"content": "Hel"}
    assert answer.events[-1]["error"]["code"] == "worker_crashed"
    assert answer.events[-1]["error"]["signal"] == "SIGSEGV"
    assert server.models.in_use == 0


def test_crash_fails_a_whole_answer_as_json(make_server: Any) -> None:
    crash = WorkerCrashedError("The model's worker died of SIGSEGV.")
    answer = make_server(localllm_chat, lambda _request: [Started(7), Chunk(0, "Hel", 1), crash]).post(PATH, HELLO)
    assert answer.status == 502
    assert answer.json["error"]["code"] == "worker_crashed"


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_frees_its_generation(make_server: Any, stream: bool) -> None:
    async def scenario() -> None:
        begun, never = asyncio.Event(), asyncio.Event()

        def hang(_request: GenerateRequest) -> Any:
            yield Started(7)
            yield Chunk(0, "Hel", 1)
            begun.set()
            yield never

        server = make_server(localllm_chat, hang)
        task = asyncio.create_task(server.request(PATH, {**HELLO, "stream": stream}, leave=begun))
        await asyncio.wait_for(server.client.idle.wait(), 10)
        await asyncio.wait([task], timeout=10)
        assert task.done()
        task.exception()  # how the server reports a departure is its own affair
        assert (server.client.running, server.client.cancelled, server.models.in_use) == (0, 1, 0)

    asyncio.run(scenario())


def test_endless_silence_is_pinged(make_server: Any) -> None:
    """The stream of a model that thinks for ever begins by itself, and its client can leave."""

    async def scenario() -> None:
        left, never = asyncio.Event(), asyncio.Event()
        server = make_server(localllm_chat, lambda _request: [never], ping_seconds=0.05)
        seen: list[bytes] = []

        def watch(answer: Any) -> None:
            seen.append(answer.body)
            if answer.body.count(b": ping\n\n") == 2:
                left.set()

        task = asyncio.create_task(server.request(PATH, {**HELLO, "stream": True}, leave=left, on_send=watch))
        await asyncio.wait_for(server.client.idle.wait(), 10)
        await asyncio.wait([task], timeout=10)
        task.exception()
        assert seen[-1].startswith(b": ping\n\n: ping\n\n")
        assert server.client.cancelled == 1

    asyncio.run(scenario())


def test_constraint_and_warnings(make_server: Any) -> None:
    warned = 'The format "phone" is not known and was left out.'

    def script(_request: GenerateRequest) -> list[Any]:
        end = Finished(Usage(7, 1), Timings(0.0, 1.0, 1.0))
        return [Started(7, (warned,)), Chunk(0, "{}", 1), ChoiceFinished(0, "stop"), end]

    server = make_server(localllm_chat, script)
    body = {**HELLO, "response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}, "strict": True}}}
    assert server.post(PATH, body).json["warnings"] == [warned]
    assert server.client.requests[0].sampling.constraint == Constraint("json_schema", '{"a":1}')
    first, *others = server.post(PATH, {**body, "stream": True}).events
    assert (first["warnings"], first["choices"][0]["delta"]) == ([warned], {"role": "assistant", "content": ""})
    assert all("warnings" not in event for event in others)


def test_prompt_logprobs(make_server: Any) -> None:
    tokens = (PromptToken(1, "<", b"<", None), PromptToken(2, "H", b"H", -0.5))
    end = Finished(Usage(2, 1), Timings(0.0, 1.0, 1.0))
    events = [Started(2), PromptLogprobs(tokens), Chunk(0, "Hi", 1), ChoiceFinished(0, "stop"), end]
    server = make_server(localllm_chat, lambda _request: events)
    body = server.post(PATH, {**HELLO, "prompt_logprobs": 1}).json
    assert server.client.requests[0].prompt_logprobs == 1
    assert body["prompt_logprobs"] == [None, {"2": {"logprob": -0.5, "rank": None, "decoded_token": "H"}}]
    refused = server.post(PATH, {**HELLO, "prompt_logprobs": 1, "stream": True})
    assert (refused.status, refused.json["error"]["param"]) == (400, "prompt_logprobs")


def test_last_message_is_continued(make_server: Any) -> None:
    server = make_server(localllm_chat)
    messages = [*HELLO["messages"], {"role": "assistant", "content": "Hel"}]
    body = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    assert server.post(PATH, body).json["choices"][0]["message"]["content"] == "Hello world"
    assert server.client.requests[0].prompt == ChatPrompt(tuple(messages), continue_final_message=True)
