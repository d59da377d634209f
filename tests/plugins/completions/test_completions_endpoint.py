"""The completions endpoint in process: several prompts at once, echo, streams, errors, clients that leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import localllm_completions
from localllm.contract.errors import ContextLengthExceededError, WorkerCrashedError
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Constraint,
    Finished,
    GenerateRequest,
    Started,
    TextPrompt,
    Timings,
    TokenPrompt,
    Usage,
)

PATH = "/v1/completions"


def repeat_prompt(request: GenerateRequest) -> list[Any]:
    """Every choice answers with its prompt and its own number, so that a mix-up shows."""
    prompt = request.prompt
    text = prompt.text if isinstance(prompt, TextPrompt) else f"tokens {prompt.tokens}"  # type: ignore[union-attr]
    n = request.sampling.n
    return [
        Started(len(text)),
        *(Chunk(choice, f"{text}/{choice}", 1) for choice in range(n)),
        *(ChoiceFinished(choice, "length") for choice in range(n)),
        Finished(Usage(len(text), n, 1), Timings(0.0, 1.0, 1.0)),
    ]


def test_whole_answer(make_server: Any) -> None:
    server = make_server(localllm_completions)
    body = server.post(PATH, {"prompt": "Once"}).json
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [{"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"]["total_tokens"] == 9
    assert server.client.requests[0].sampling.max_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a", ["a/0", "a/1"]),
        (["a", "b"], ["a/0", "a/1", "b/0", "b/1"]),
        ([1, 2], ["tokens (1, 2)/0", "tokens (1, 2)/1"]),
        ([[1], [2, 3]], ["tokens (1,)/0", "tokens (1,)/1", "tokens (2, 3)/0", "tokens (2, 3)/1"]),
    ],
)
def test_prompts_times_choices(make_server: Any, prompt: Any, texts: list[str]) -> None:
    server = make_server(localllm_completions, repeat_prompt)
    body = server.post(PATH, {"prompt": prompt, "n": 2}).json
    assert [choice["text"] for choice in body["choices"]] == texts
    assert [choice["index"] for choice in body["choices"]] == list(range(len(texts)))
    assert body["usage"]["completion_tokens"] == len(texts)
    streamed = dict.fromkeys(range(len(texts)), "")
    events = server.post(PATH, {"prompt": prompt, "n": 2, "stream": True}).events
    for event in events:
        streamed[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert list(streamed.values()) == texts
    finishes = [choice["index"] for event in events for choice in event["choices"] if choice["finish_reason"]]
    assert sorted(finishes) == list(range(len(texts)))


def test_usage_of_several_prompts_is_summed(make_server: Any) -> None:
    server = make_server(localllm_completions, repeat_prompt)
    body = {"prompt": ["aa", "bbbb"], "stream": True, "stream_options": {"include_usage": True}}
    answer = server.post(PATH, body)
    assert answer.done
    assert answer.events[-1]["choices"] == []
    usage = answer.events[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (6, 2)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2


def test_prompts_run_at_the_same_time(make_server: Any) -> None:
    async def scenario() -> None:
        all_running = asyncio.Event()

        def script(request: GenerateRequest) -> Any:
            if len(server.client.requests) == 3:
                all_running.set()
            yield all_running
            yield from repeat_prompt(request)

        server = make_server(localllm_completions, script)
        answer = await asyncio.wait_for(server.request(PATH, {"prompt": ["a", "b", "c"]}), 10)
        assert [choice["text"] for choice in answer.json["choices"]] == ["a/0", "b/0", "c/0"]

    asyncio.run(scenario())


def test_echo(make_server: Any) -> None:
    server = make_server(localllm_completions, repeat_prompt)
    body = server.post(PATH, {"prompt": ["a", "b"], "echo": True}).json
    assert [choice["text"] for choice in body["choices"]] == ["aa/0", "bb/0"]
    events = server.post(PATH, {"prompt": ["a", "b"], "echo": True, "stream": True}).events
    assert [event["choices"][0]["text"] for event in events[:2]] == ["a", "b"]


def test_token_ids_reach_the_model_as_they_are(make_server: Any) -> None:
    server = make_server(localllm_completions)
    server.post(PATH, {"prompt": [5, 0, 7]})
    assert server.client.requests[0].prompt == TokenPrompt((5, 0, 7))


@pytest.mark.parametrize("stream", [False, True])
def test_one_prompt_that_is_too_long_fails_the_request(make_server: Any, stream: bool) -> None:
    def script(request: GenerateRequest) -> list[Any]:
        too_long = request.prompt == TextPrompt("long")
        return [ContextLengthExceededError(5000, 2048)] if too_long else repeat_prompt(request)

    server = make_server(localllm_completions, script)
    answer = server.post(PATH, {"prompt": ["a", "long", "b"], "stream": stream})
    assert answer.status == 400
    assert (answer.json["error"]["code"], answer.json["error"]["param"]) == ("context_length_exceeded", "prompt")
    assert (server.client.running, server.models.in_use) == (0, 0)


def test_error_mid_stream_is_one_event_and_no_done(make_server: Any) -> None:
    crash = WorkerCrashedError("The model's worker died of SIGSEGV.")
    server = make_server(localllm_completions, lambda _request: [Started(7), Chunk(0, "Hel", 1), crash])
    answer = server.post(PATH, {"prompt": "a", "stream": True})
    assert [("error" in event) for event in answer.events] == [False, True]
    assert not answer.done


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_frees_all_its_generations(make_server: Any, stream: bool) -> None:
    async def scenario() -> None:
        begun, never = asyncio.Event(), asyncio.Event()

        def hang(_request: GenerateRequest) -> Any:
            yield Started(7)
            yield Chunk(0, "Hel", 1)
            if len(server.client.requests) == 3:
                begun.set()
            yield never

        server = make_server(localllm_completions, hang)
        body = {"prompt": ["a", "b", "c"], "stream": stream}
        task = asyncio.create_task(server.request(PATH, body, leave=begun))
        await asyncio.wait_for(server.client.idle.wait(), 10)
        await asyncio.wait([task], timeout=10)
        assert task.done()
        task.exception()
        assert (server.client.running, server.client.cancelled, server.models.in_use) == (0, 3, 0)

    asyncio.run(scenario())


def test_path_without_version(make_server: Any) -> None:
    assert make_server(localllm_completions).post("/completions", {"prompt": "a"}).status == 200


def test_constraint_and_warnings(make_server: Any) -> None:
    warned = 'The format "phone" is not known and was left out.'

    def script(request: GenerateRequest) -> list[Any]:
        _, *rest = repeat_prompt(request)
        return [Started(1, (warned,)), *rest]

    server = make_server(localllm_completions, script)
    body = {"prompt": ["a", "b"], "response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}}}}
    assert server.post(PATH, body).json["warnings"] == [warned]
    expected = Constraint("json_schema", '{"a":1}', strict=False)
    assert [request.sampling.constraint for request in server.client.requests] == [expected, expected]
    first, *others = server.post(PATH, {**body, "stream": True}).events
    assert first["warnings"] == [warned]
    assert all("warnings" not in event for event in others)
