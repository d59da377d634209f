"""Requests about texts, and prompts that are scored, in a real worker process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError
from localllm.contract.generation import (
    ChatPrompt,
    ChoiceFinished,
    Finished,
    InfillPrompt,
    PromptLogprobs,
    Started,
    TextPrompt,
)
from localllm.contract.model import Mode
from localllm.contract.texts import DetokenizeRequest, RenderRequest, TokenizeRequest
from localllm.host.client import WorkerClient
from tests.process.conftest import Run
from tests.process.harness import Models, ask, fake_backend, read_all, running_registry, text_of

pytestmark = pytest.mark.process

HELLO = ChatPrompt(({"role": "user", "content": "hello"},))
BATCHES = {"n_batch": 8, "n_outputs_max": 4, "parallel": 2}


def test_texts_are_answered_beside_a_generation(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with (
            running_registry(Models(demo={}), tmp_path, backend=fake_backend("load_slow")) as registry,
            registry.acquire("demo", Mode.GENERATE) as client,
        ):
            assert isinstance(client, WorkerClient)
            writing = asyncio.create_task(read_all(client, ask(max_tokens=20)))
            tokens = await client.convert(TokenizeRequest(TextPrompt("é"), add_special=True, with_pieces=True))
            assert (tokens.tokens, tokens.pieces) == ((257, 0xC3, 0xA9), (b"<|begin|>", b"\xc3", b"\xa9"))
            assert (await client.convert(RenderRequest(HELLO))).text == "user: hello\nassistant:"
            answers = await asyncio.gather(*(client.convert(DetokenizeRequest((97 + n,))) for n in range(20)))
            assert [answer.text for answer in answers] == [chr(97 + n) for n in range(20)]
            with pytest.raises(InvalidRequestError) as caught:
                await client.convert(DetokenizeRequest((-5,)))
            assert caught.value.param == "tokens"
            assert len(text_of(await writing)) == 20
            assert client.open_requests == 0

    run(scenario())


def test_a_text_that_is_cancelled_leaves_nothing_open(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with (
            running_registry(Models(demo={}), tmp_path) as registry,
            registry.acquire("demo", Mode.GENERATE) as client,
        ):
            assert isinstance(client, WorkerClient)
            asked = asyncio.create_task(client.convert(TokenizeRequest(TextPrompt("a" * 500_000), with_pieces=True)))
            await asyncio.sleep(0)
            assert client.open_requests == 1
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert client.open_requests == 0
            whole = await client.convert(TokenizeRequest(TextPrompt("a" * 500_000), with_pieces=True))
            assert len(whole.tokens) == len(whole.pieces) == 500_000

    run(scenario())


def test_prompts_that_are_scored_come_whole_and_in_order(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with (
            running_registry(Models(demo=BATCHES), tmp_path) as registry,
            registry.acquire("demo", Mode.GENERATE) as client,
        ):
            texts = [f"{number} and some more words, {'and more ' * number}" for number in range(12)]
            requests = [
                replace(ask(text, max_tokens=number % 3), prompt_logprobs=5) for number, text in enumerate(texts)
            ]
            answers = await asyncio.gather(*(read_all(client, request) for request in requests))
            for text, request, events in zip(texts, requests, answers, strict=True):
                told = [token for event in events if isinstance(event, PromptLogprobs) for token in event.tokens]
                assert isinstance(events[0], Started)
                assert b"".join(token.bytes for token in told) == text.encode()
                assert [token.logprob is None for token in told] == [True] + [False] * len(text)
                assert len(text_of(events)) == request.sampling.max_tokens
                assert [type(event) for event in events[-2:]] == [ChoiceFinished, Finished]

    run(scenario())


def test_a_gap_is_filled_and_an_engine_that_can_not_score_says_so(tmp_path: Path, run: Run) -> None:
    async def scenario() -> None:
        async with (
            running_registry(Models(demo={"can_score": False}), tmp_path) as registry,
            registry.acquire("demo", Mode.GENERATE) as client,
        ):
            events = await read_all(client, replace(ask(), prompt=InfillPrompt("ab", "c")))
            assert events[0] == Started(7)
            with pytest.raises(UnsupportedFeatureError):
                await read_all(client, replace(ask(), prompt_logprobs=0))

    run(scenario())
