"""The official ``openai`` client against a real server on a real port, with the bundled demo model."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import gguf
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

pytestmark = [pytest.mark.real_model, pytest.mark.process]

MODEL = "localllm-demo"
CAPITAL: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
STORY: list[Any] = [{"role": "user", "content": "Tell me a little story."}]
FRESH = {"cache_prompt": False}
FLAT = {**FRESH, "top_k": 0, "top_p": 1, "min_p": 0}  # the model is sure of its stories: leave it every choice


@pytest.fixture
def client(server: Any) -> Any:
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
        yield client


@pytest.fixture(scope="module")
def token_ids(demo_model: Path) -> dict[str, int]:
    """Token ids by text, of tokens that are plain ASCII words."""
    field = gguf.GGUFReader(demo_model).get_field("tokenizer.ggml.tokens")
    assert field is not None
    return {token: index for index, token in enumerate(field.contents()) if token.isascii()}


def with_async_client(server: Any, work: Callable[[AsyncOpenAI], Any]) -> Any:
    async def run() -> Any:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
            return await work(client)

    return asyncio.run(run())


def chat(client: OpenAI, messages: list[Any], **fields: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=messages, temperature=0, **fields)


# --- chat ------------------------------------------------------------------------------------------------------------


def test_chat(client: OpenAI) -> None:
    answer = chat(client, CAPITAL)
    assert answer.choices[0].message.content == PARIS
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


def test_chat_without_naming_a_model(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=None, messages=CAPITAL, temperature=0)  # type: ignore[call-overload]
    assert (answer.model, answer.choices[0].message.content) == (MODEL, PARIS)


def test_chat_stream(client: OpenAI) -> None:
    chunks = list(chat(client, CAPITAL, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == PARIS
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-2:] == [None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == chat(client, CAPITAL).usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}
    )
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1


def test_stream_has_no_usage_unless_asked(client: OpenAI) -> None:
    chunks = list(chat(client, CAPITAL, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_chat_async(server: Any) -> None:
    async def work(client: AsyncOpenAI) -> tuple[str, str]:
        plain = await client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0)
        stream = await client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return plain.choices[0].message.content or "", "".join(pieces)

    assert with_async_client(server, work) == (PARIS, PARIS)


def test_stream_helper_of_the_client_accepts_the_stream(client: OpenAI) -> None:
    """The helper checks every chunk against the client's own models and accumulates a whole completion."""
    with client.chat.completions.stream(model=MODEL, messages=CAPITAL, temperature=0) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    assert final.choices[0].message.content == PARIS


def test_three_choices(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=STORY, n=3, temperature=1, max_tokens=20)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 60
    same = chat(client, CAPITAL, n=3)
    assert [choice.message.content for choice in same.choices] == [PARIS] * 3
    assert same.usage.prompt_tokens == chat(client, CAPITAL).usage.prompt_tokens


def test_three_choices_streamed(client: OpenAI) -> None:
    texts, finishes = dict.fromkeys(range(3), ""), []
    for chunk in chat(client, CAPITAL, n=3, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            finishes.append((choice.index, choice.finish_reason))
    assert texts == dict.fromkeys(range(3), PARIS)
    assert sorted(finishes) == [(0, "stop"), (1, "stop"), (2, "stop")]


def test_logprobs(client: OpenAI) -> None:
    choice = chat(client, CAPITAL, logprobs=True, top_logprobs=5).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == PARIS
    for token in tokens:
        values = [top.logprob for top in token.top_logprobs]
        assert len(values) == 5
        assert values == sorted(values, reverse=True)
        assert (token.token, token.logprob) == (token.top_logprobs[0].token, values[0])  # temperature 0
        assert token.logprob <= 0
    streamed = [
        token
        for chunk in chat(client, CAPITAL, logprobs=True, top_logprobs=5, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert [token.token for token in streamed] == [token.token for token in tokens]


@pytest.mark.parametrize(
    ("stop", "rest"),
    [(" France", "The capital of"), ([" Rome", " is"], "The capital of France"), (".", PARIS[:-1]), ("\n", PARIS)],
)
def test_stop(client: OpenAI, stop: Any, rest: str) -> None:
    choice = chat(client, CAPITAL, stop=stop).choices[0]
    assert (choice.message.content, choice.finish_reason) == (rest, "stop")
    streamed = chat(client, CAPITAL, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == rest


def test_stop_across_token_borders(client: OpenAI) -> None:
    tokens = [token.token for token in chat(client, CAPITAL, logprobs=True).choices[0].logprobs.content]
    borders = list(itertools.accumulate(len(token) for token in tokens))[:-1]
    assert len(borders) >= 3
    for border in borders:
        stop = PARIS[border - 1 : border + 1]
        assert chat(client, CAPITAL, stop=stop).choices[0].message.content == PARIS[: PARIS.index(stop)]
        streamed = chat(client, CAPITAL, stop=[stop], stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == PARIS[: PARIS.index(stop)]


def test_stop_string_in_the_output_when_asked(client: OpenAI) -> None:
    choice = chat(client, CAPITAL, stop=" France", extra_body={"include_stop_str_in_output": True}).choices[0]
    assert choice.message.content == "The capital of France"


def test_seed(client: OpenAI) -> None:
    def story(seed: int) -> str:
        answer = client.chat.completions.create(
            model=MODEL, messages=STORY, temperature=2, max_tokens=40, seed=seed, extra_body=FLAT
        )
        return answer.choices[0].message.content or ""

    first = [story(seed) for seed in range(4)]
    assert [story(seed) for seed in range(4)] == first
    assert len(set(first)) > 1


def test_max_tokens(client: OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = chat(client, CAPITAL, **{name: 3})
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (3, "length")
        assert PARIS.startswith(answer.choices[0].message.content)
    assert chat(client, CAPITAL, max_tokens=-1).choices[0].message.content == PARIS


def test_ignore_eos_and_min_tokens(client: OpenAI) -> None:
    usual = chat(client, CAPITAL).usage.completion_tokens
    longer = chat(client, CAPITAL, max_tokens=usual + 10, extra_body={"ignore_eos": True})
    assert (longer.usage.completion_tokens, longer.choices[0].finish_reason) == (usual + 10, "length")
    assert longer.choices[0].message.content.startswith(PARIS)
    at_least = chat(client, CAPITAL, max_tokens=usual + 40, extra_body={"min_tokens": usual + 5})
    assert at_least.usage.completion_tokens >= usual + 5


def test_logit_bias(client: OpenAI, token_ids: dict[str, int]) -> None:
    usual = chat(client, CAPITAL, logprobs=True).choices[0].logprobs.content[0].token
    banned = chat(client, CAPITAL, logprobs=True, max_tokens=3, logit_bias={str(token_ids[usual]): -100})
    assert banned.choices[0].logprobs.content[0].token != usual
    other = next(text for text in token_ids if text.isalpha() and text != usual)
    forced = chat(client, CAPITAL, logprobs=True, max_tokens=1, logit_bias={str(token_ids[other]): 100})
    assert forced.choices[0].message.content == other


def test_timings(client: OpenAI) -> None:
    answer = chat(client, CAPITAL, extra_body=FRESH)
    timings = answer.model_extra["timings"]
    assert timings["prompt_n"] == answer.usage.prompt_tokens
    assert timings["predicted_n"] == answer.usage.completion_tokens
    assert timings["predicted_per_second"] > 0
    *_, last = chat(client, CAPITAL, stream=True)
    assert last.model_extra["timings"]["predicted_n"] == answer.usage.completion_tokens


# --- completions -----------------------------------------------------------------------------------------------------

RAW = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


def complete(client: OpenAI, prompt: Any, **fields: Any) -> Any:
    return client.completions.create(model=MODEL, prompt=prompt, temperature=0, **fields)


def test_completion(client: OpenAI) -> None:
    answer = complete(client, RAW)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (PARIS, "stop")
    assert answer.object == "text_completion"
    assert answer.usage.prompt_tokens == chat(client, CAPITAL).usage.prompt_tokens


def test_completion_stream(client: OpenAI) -> None:
    chunks = list(complete(client, RAW, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == PARIS
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-2].choices[0].text, chunks[-1].choices) == ("", [])
    assert chunks[-1].usage.completion_tokens > 0


def test_completion_async(server: Any) -> None:
    async def work(client: AsyncOpenAI) -> tuple[str, str]:
        plain = await client.completions.create(model=MODEL, prompt=RAW, temperature=0)
        stream = await client.completions.create(model=MODEL, prompt=RAW, temperature=0, stream=True)
        return plain.choices[0].text, "".join([chunk.choices[0].text async for chunk in stream])

    assert with_async_client(server, work) == (PARIS, PARIS)


def test_completion_stops_at_16_tokens_by_default(client: OpenAI) -> None:
    answer = complete(client, RAW, extra_body={"ignore_eos": True})
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (16, "length")


def test_several_prompts_times_choices(client: OpenAI) -> None:
    prompts = [RAW, RAW.replace("France", "Italy"), RAW.replace("France", "Japan")]
    answer = complete(client, prompts, n=2)
    assert [choice.index for choice in answer.choices] == list(range(6))
    solo = [complete(client, prompt).choices[0].text for prompt in prompts]
    assert [choice.text for choice in answer.choices] == [text for text in solo for _ in range(2)]
    texts = dict.fromkeys(range(6), "")
    for chunk in complete(client, prompts, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert list(texts.values()) == [choice.text for choice in answer.choices]


def test_prompt_of_token_ids(client: OpenAI, token_ids: dict[str, int]) -> None:
    ids = [token_ids["<|im_start|>"], *(token_ids[letter] for letter in "Hi"), token_ids["<|im_end|>"]]
    answer = complete(client, ids, max_tokens=4, extra_body={"ignore_eos": True})
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 4)
    both = complete(client, [ids, ids[:2]], max_tokens=4, extra_body={"ignore_eos": True})
    assert both.choices[0].text == answer.choices[0].text
    assert both.usage.prompt_tokens == 6


def test_echo(client: OpenAI) -> None:
    assert complete(client, RAW, echo=True).choices[0].text == RAW + PARIS
    streamed = complete(client, RAW, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == RAW + PARIS


def test_legacy_logprobs(client: OpenAI) -> None:
    logprobs = complete(client, RAW, logprobs=3).choices[0].logprobs
    assert "".join(logprobs.tokens) == PARIS
    assert logprobs.text_offset == [0, *itertools.accumulate(len(token) for token in logprobs.tokens)][:-1]
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert max(top.values()) == top[token] == logprob


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"top_p": 3}, "top_p", "invalid_request"),
        ({"stop": [""]}, "stop[0]", "invalid_request"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "invalid_request"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", "unsupported_feature"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests(client: OpenAI, fields: Any, param: str, code: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, CAPITAL, stream=stream, **fields)
    assert (caught.value.param, caught.value.code, caught.value.type) == (param, code, "invalid_request_error")


def test_image_is_refused(client: OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, [{"role": "user", "content": [image]}])
    assert (caught.value.code, caught.value.param) == ("unsupported_feature", "messages[0].content[0]")


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_that_is_too_long(client: OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, [{"role": "user", "content": "word " * 20_000}], stream=stream)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["n_prompt_tokens"] > caught.value.body["n_ctx"] > 0


def test_token_beyond_the_vocabulary_and_empty_prompt(client: OpenAI) -> None:
    for prompt in ([999_999], ""):
        with pytest.raises(openai.BadRequestError) as caught:
            complete(client, prompt)
        assert caught.value.param == "prompt"


def test_unknown_model_names_the_known_ones(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no/such:model", messages=CAPITAL)
    assert caught.value.code == "model_not_found"
    assert MODEL in caught.value.message


def test_key_is_asked_for_where_one_is_set(guarded_server: Any) -> None:
    with OpenAI(base_url=guarded_server.base_url, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            stranger.models.list()
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            chat(stranger, CAPITAL)
    with OpenAI(base_url=guarded_server.base_url, api_key=guarded_server.api_key, max_retries=0) as friend:
        assert MODEL in [model.id for model in friend.models.list()]


@pytest.mark.parametrize("stream", [False, True])
def test_a_worker_that_dies_is_an_error_with_the_signals_name_and_the_next_request_loads_again(
    server: Any, stream: bool
) -> None:
    async def work(client: AsyncOpenAI) -> str | None:
        await client.chat.completions.create(model=MODEL, messages=CAPITAL)  # the model is loaded
        if stream:
            chunks = await client.chat.completions.create(**ENDLESS, stream=True)
            await anext(chunks)
            kill_workers(server)
            with pytest.raises(openai.APIError, match="SIGSEGV") as caught:
                async for _ in chunks:
                    pass
        else:
            waiting = asyncio.create_task(client.chat.completions.create(**ENDLESS))
            await some_round_trips(client)
            kill_workers(server)
            with pytest.raises(openai.InternalServerError, match="SIGSEGV") as caught:
                await waiting
        assert (caught.value.code, caught.value.type) == ("worker_crashed", "server_error")
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["signal"] == "SIGSEGV"
        again = await client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0)
        return again.choices[0].message.content

    assert with_async_client(server, work) == PARIS


def kill_workers(server: Any) -> None:
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="ascii").split()
    assert children
    for pid in children:
        os.kill(int(pid), signal.SIGSEGV)


# --- models ----------------------------------------------------------------------------------------------------------


def test_models(client: OpenAI) -> None:
    models = list(client.models.list())
    assert models[0].id == MODEL
    model = client.models.retrieve(MODEL)
    assert (model.id, model.object, model.created) == (MODEL, "model", models[0].created)
    same = client.models.retrieve("org/name:Q4")
    assert (same.id, same.created, same.meta) == (model.id, model.created, model.meta)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such:model")


# --- leaving early ---------------------------------------------------------------------------------------------------

ENDLESS: dict[str, Any] = {
    "model": MODEL,
    "messages": STORY,
    "n": 32,
    "max_tokens": -1,
    "extra_body": {"ignore_eos": True},
}
"""More answers than can be written at a time, each as long as the context: minutes of work that block all others."""


async def begin_stream(client: AsyncOpenAI) -> Callable[[], Awaitable[object]]:
    stream = await client.chat.completions.create(**ENDLESS, stream=True)
    for _ in range(100):
        await anext(stream)
    return stream.close


async def begin_waiting(client: AsyncOpenAI) -> Callable[[], Awaitable[object]]:
    task = asyncio.create_task(client.chat.completions.create(**ENDLESS))
    await some_round_trips(client)

    async def leave() -> None:
        task.cancel()
        await asyncio.wait([task])

    return leave


async def some_round_trips(client: AsyncOpenAI) -> None:
    """Let the server turn to what was sent before."""
    for _ in range(5):
        await client.models.list()


@pytest.mark.parametrize("begin", [begin_stream, begin_waiting])
def test_client_that_leaves_frees_its_sequences_within_a_second(server: Any, begin: Any) -> None:
    async def work(client: AsyncOpenAI) -> float:
        await client.chat.completions.create(model=MODEL, messages=CAPITAL)  # the model is loaded
        leave = await begin(client)
        other = asyncio.create_task(client.chat.completions.create(model=MODEL, messages=CAPITAL, max_tokens=1))
        await some_round_trips(client)
        assert not other.done(), "the endless request should have taken all sequences"
        left_at = time.perf_counter()
        await leave()
        await other
        return time.perf_counter() - left_at

    # The machine may be busy, so the best of three counts; a sequence that stays taken blocks for longer each time.
    assert min(with_async_client(server, work) for _ in range(3)) < 1
