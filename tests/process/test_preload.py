"""What the configuration preloads is in the cache of a real worker before anybody's first request."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.generation import ChatPrompt, GenerateRequest, SamplingParams
from localllm.contract.model import Mode, ModelSpec
from localllm.host.client import WorkerClient
from localllm.host.states import ModelState
from tests.process.conftest import Run
from tests.process.harness import Models, finished, read_all, running_registry

pytestmark = pytest.mark.process

SYSTEM = {"role": "system", "content": "You are terse. " * 20}
BEGINNING = ChatPrompt((SYSTEM,))
N_TOKENS = len(f"system: {SYSTEM['content']}\nuser: ")


def ask(owner: str, text: str) -> GenerateRequest:
    prompt = ChatPrompt((SYSTEM, {"role": "user", "content": text}))
    return GenerateRequest(prompt, SamplingParams(max_tokens=4), owner=owner)


def models(*preload: ChatPrompt, **settings: Any) -> Models:
    found = Models(demo=settings)
    found.change(replace(found.resolve("demo"), preload=preload))
    return found


def test_owners_that_come_with_the_load_find_it_cached(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_registry(models(BEGINNING), tmp_path) as registry:

            async def cached(owner: str) -> int:
                async with registry.acquire("demo", Mode.GENERATE) as client:
                    return finished(await read_all(client, ask(owner, f"I am {owner}"))).usage.cached_tokens

            assert await asyncio.gather(*map(cached, ("anna", "bert", ""))) == [N_TOKENS] * 3
            async with registry.acquire("demo", Mode.GENERATE) as client:
                assert isinstance(client, WorkerClient)
                assert client.prefilled_tokens_total >= N_TOKENS
                assert client.prefilled_tokens_total < 2 * N_TOKENS, "it was evaluated once"

    run(scenario())


def test_one_that_does_not_fit_is_a_warning_and_the_model_serves(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        caplog.set_level("INFO")
        async with (
            running_registry(models(BEGINNING, context_length=64), tmp_path) as registry,
            registry.acquire("demo", Mode.GENERATE) as client,
        ):
            short = GenerateRequest(ChatPrompt(({"role": "user", "content": "hi"},)), SamplingParams(max_tokens=2))
            assert finished(await read_all(client, short)).usage.completion_tokens == 2

    run(scenario())
    [note] = [record.getMessage() for record in caplog.records if "preload" in record.getMessage()]
    assert note.startswith("demo: preload[0] is left out: This model's context holds 64 tokens")


def test_a_changed_preload_loads_the_model_anew(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        catalogue = models()
        async with running_registry(catalogue, tmp_path) as registry:

            async def cached() -> int:
                async with registry.acquire("demo", Mode.GENERATE) as client:
                    return finished(await read_all(client, ask("anna", "hello"))).usage.cached_tokens

            assert await cached() == 0
            spec: ModelSpec = catalogue.resolve("demo")
            catalogue.change(replace(spec, preload=(BEGINNING,)))
            assert await cached() == N_TOKENS
            assert [state.state for state in registry.status()] == [ModelState.READY]

    run(scenario())
