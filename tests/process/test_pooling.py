"""Models that pool, in real worker processes: shared batches, turns, cancels, crashes, and whole answers of 32 MB."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.backend import BackendSpec, ModelClient
from localllm.contract.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    ModelLoadError,
    ModelUnsupportedError,
    WorkerCrashedError,
)
from localllm.contract.events import ModelLoaded, WorkerDied
from localllm.contract.generation import TextPrompt, TokenPrompt
from localllm.contract.model import Mode
from localllm.contract.pooling import (
    PairPrompt,
    Pooled,
    PoolEvent,
    PoolFinished,
    PoolingInfo,
    PoolItem,
    PoolRequest,
    PoolStarted,
)
from localllm.host.client import WorkerClient
from localllm.testing.fake_pooler import ByteEncoder, fake_vector
from tests.process.conftest import Run
from tests.process.harness import (
    PATIENCE_SECONDS,
    Events,
    Models,
    ask,
    fake_backend,
    read_all,
    running_registry,
    scripted_worker,
)

pytestmark = pytest.mark.process

POOL = Mode.POOL
SELF_TEST_STEPS = 1
BACKEND = BackendSpec("fake", frozenset({POOL}), factory="localllm.testing.poolers:load_fake_pooler")


def texts(*words: str, **fields: Any) -> PoolRequest:
    return PoolRequest(tuple(map(TextPrompt, words)), **fields)


async def read_pool(client: ModelClient, request: PoolRequest) -> list[PoolEvent]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [event async for event in client.pool(request)]


def vectors_of(events: Sequence[PoolEvent]) -> list[bytes]:
    """Return the vectors in input order."""
    found: dict[int, bytes] = {}
    for event in events:
        if isinstance(event, Pooled):
            for index, data in event.vectors():
                assert index not in found, "answered twice"
                found[index] = data
    assert sorted(found) == list(range(len(found)))
    return [found[index] for index in range(len(found))]


def expected(words: Sequence[str], pooling: PoolingInfo | None) -> list[bytes]:
    assert pooling is not None
    return [fake_vector(PoolItem(tuple(ByteEncoder().encode_text(word))), pooling) for word in words]


@asynccontextmanager
async def running_pooler(
    tmp_path: Path, settings: dict[str, Any] | None = None, **registry_settings: Any
) -> AsyncIterator[WorkerClient]:
    models = Models(demo=settings or {})
    async with (
        running_registry(models, tmp_path, backend=BACKEND, **registry_settings) as registry,
        registry.acquire("demo", POOL) as client,
    ):
        assert isinstance(client, WorkerClient)
        yield client


class Gate:
    """Holds a worker in its first batch after the self-test, and tells afterwards which batches there were."""

    def __init__(self, folder: Path) -> None:
        self._pipe, self._record = folder / "gate", folder / "batches"
        os.mkfifo(self._pipe)
        self.settings = {"gate": str(self._pipe), "record": str(self._record)}

    async def reached(self) -> None:
        """Return when the worker is in that batch: to open a named pipe waits for who reads it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            self._writer = await asyncio.to_thread(self._pipe.open, "wb")

    async def wait_until_known(self, client: ModelClient) -> None:
        """Return when the worker has taken in all requests and cancels so far: it refuses this one after them."""
        with pytest.raises(InvalidRequestError):
            await read_pool(client, texts(""))

    def open(self) -> None:
        """Let the worker go on."""
        self._writer.close()

    def batches(self) -> list[list[int]]:
        """Return the lengths of the texts in each batch after the self-test, in tokens."""
        return [json.loads(line) for line in self._record.read_text().splitlines()][SELF_TEST_STEPS:]


async def started(stream: AsyncIterator[PoolEvent]) -> asyncio.Task[list[PoolEvent]]:
    """Read on in the background."""

    async def read() -> list[PoolEvent]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return [event async for event in stream]

    task = asyncio.create_task(read())
    await asyncio.sleep(0)  # so that it is submitted before what comes next
    return task


def test_a_model_that_pools_answers_in_input_order_and_counts_its_tokens(run_both: Run, tmp_path: Path) -> None:
    words = ["a", "three words here", "c" * 30, "b" * 60, "naïve 🙂"]

    async def scenario() -> None:
        async with running_pooler(tmp_path) as client:
            assert client.info.pooling == PoolingInfo("mean", 8)
            events = await read_pool(client, texts(*words))
            n_tokens = sum(len(ByteEncoder().encode_text(word)) for word in words)
            assert events[0] == PoolStarted(n_tokens)
            assert vectors_of(events) == expected(words, client.info.pooling)
            assert isinstance(events[-1], PoolFinished)
            assert events[-1].prompt_tokens == n_tokens
            assert client.prefilled_tokens_total == n_tokens
            assert client.open_requests == 0

    run_both(scenario())


def test_a_model_that_ranks_scores_pairs(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_pooler(tmp_path, {"kind": "rank", "scale": "probability"}) as client:
            assert client.info.pooling == PoolingInfo("rank", 1, "probability")
            pairs = tuple(PairPrompt("query", document) for document in ("one", "two"))
            scores = vectors_of(await read_pool(client, PoolRequest(pairs)))
            assert [len(score) for score in scores] == [4, 4]
            assert scores[0] != scores[1]

    run(scenario())


def test_two_clients_share_a_batch(run: Run, tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    async def scenario() -> None:
        async with running_pooler(tmp_path, {**gate.settings, "batch_texts": 8}) as client:
            first = await started(client.pool(texts("held")))
            await gate.reached()
            words = [["a", "bb", "ccc"], ["dddd", "eeeee", "a", "bb", "c"]]
            both = [await started(client.pool(texts(*some, owner=f"key {some[0]}"))) for some in words]
            await gate.wait_until_known(client)
            gate.open()
            for some, task in zip(words, both, strict=True):
                assert vectors_of(await task) == expected(some, client.info.pooling)
            await first
            assert [len(batch) for batch in gate.batches()] == [1, 8]

    run(scenario())


def test_a_small_request_overtakes_one_of_2048_texts(run: Run, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    big_words = ["x" * 14] * 2048  # 16 tokens each: four in a batch

    async def scenario() -> None:
        async with running_pooler(tmp_path, gate.settings) as client:
            big = await started(client.pool(texts(*big_words)))
            await gate.reached()
            small = await started(client.pool(texts("aa", "b")))
            await gate.wait_until_known(client)
            gate.open()
            assert vectors_of(await small) == expected(["aa", "b"], client.info.pooling)
            assert vectors_of(await big) == expected(big_words, client.info.pooling)
            batches = gate.batches()
            assert len(batches) > 500
            of_the_small_one = [number for number, batch in enumerate(batches) if 4 in batch or 3 in batch]
            assert max(of_the_small_one) <= 2

    run(scenario())


def test_a_reader_that_leaves_frees_the_worker_for_the_next(run_both: Run, tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    async def scenario() -> None:
        async with running_pooler(tmp_path, {**gate.settings, "batch_texts": 1}) as client:
            left = await started(client.pool(texts(*["x" * 10] * 500)))
            queued = await started(client.pool(texts(*["y" * 10] * 500)))
            await gate.reached()
            await gate.wait_until_known(client)
            for task in (left, queued):
                task.cancel()
                await asyncio.wait({task})
            next_one = await started(client.pool(texts("next")))
            await gate.wait_until_known(client)
            assert client.open_requests == 1
            gate.open()
            assert vectors_of(await next_one) == expected(["next"], client.info.pooling)
            assert gate.batches() == [[12], [6]]

    run_both(scenario())


def test_a_crash_between_two_batches_names_its_cause_and_the_next_request_reloads(
    run_both: Run, tmp_path: Path
) -> None:
    settings = {
        "crash_after_steps": SELF_TEST_STEPS + 2,
        "batch_texts": 1,
        "last_words": "GGML_ASSERT(it was told to)",
    }

    async def scenario() -> None:
        events = Events()
        async with running_registry(Models(demo=settings), tmp_path, backend=BACKEND, emit=events) as registry:
            for _ in range(2):
                async with registry.acquire("demo", POOL) as client:
                    received: list[PoolEvent] = []
                    with pytest.raises(WorkerCrashedError, match=r"SIGSEGV: GGML_ASSERT\(it was told to\)"):
                        async for event in client.pool(texts("a", "b", "c")):
                            received.append(event)
                    assert len([event for event in received if isinstance(event, Pooled)]) == 2, "and what was done"
            assert len(events.of(WorkerDied)) == 2
            assert len(events.of(ModelLoaded)) == 2

    run_both(scenario())


def test_a_worker_that_hangs_in_a_batch_is_killed(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = {"hang_after_steps": SELF_TEST_STEPS + 1}
        async with running_pooler(tmp_path, settings, hang_timeout_seconds=2) as client:
            await read_pool(client, texts("fine"))
            with pytest.raises(WorkerCrashedError, match=r"silent for 2 seconds"):
                await read_pool(client, texts("hangs"))

    run(scenario())


def test_what_is_wrong_with_a_request_arrives_as_its_type_and_leaves_the_worker_alone(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_pooler(tmp_path, {"context_length": 20}) as client:
            with pytest.raises(ContextLengthExceededError, match="input 1 has 42") as too_long:
                await read_pool(client, texts("a", "x" * 40))
            assert too_long.value.detail == {"n_prompt_tokens": 42, "n_ctx": 20}
            assert too_long.value.param == "input"
            for wrong, param in (
                (PoolRequest((TokenPrompt((1, 99_999)),)), "input"),
                (texts(""), "input"),
                (PoolRequest(()), "input"),
                (texts("a", dimensions=9), "dimensions"),
            ):
                with pytest.raises(InvalidRequestError) as invalid:
                    await read_pool(client, wrong)
                assert invalid.value.param == param
            with pytest.raises(ModelUnsupportedError):
                await read_pool(client, PoolRequest((PairPrompt("q", "d"),)))
            with pytest.raises(ModelUnsupportedError, match="loaded to pool"):
                await read_all(client)
            cut = await read_pool(client, texts("a", "x" * 40, truncate=True))
            assert isinstance(cut[-1], PoolFinished)
            assert cut[-1].truncated == (1,)

    run(scenario())


def test_a_model_that_writes_refuses_to_pool(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running_registry(Models(demo={}), tmp_path, backend=fake_backend()) as registry,
            registry.acquire("demo", Mode.GENERATE) as client,
        ):
            with pytest.raises(ModelUnsupportedError, match="loaded to write"):
                await read_pool(client, texts("a"))
            await read_all(client)

    run(scenario())


def test_a_factory_that_ignores_the_mode_is_a_load_error(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        writer = BackendSpec("fake", frozenset({POOL}), factory="localllm.testing.decoders:load_fake")
        async with running_registry(Models(demo={}), tmp_path, backend=writer) as registry:
            with pytest.raises(ModelLoadError, match="no pooler"):
                async with registry.acquire("demo", POOL):
                    raise AssertionError("it loaded")

    run(scenario())


def test_32_megabytes_of_vectors_wait_for_a_slow_reader(run: Run, tmp_path: Path) -> None:
    n_texts, dimensions = 2048, 4096

    async def scenario() -> None:
        settings = {"dimensions": dimensions, "batch_texts": 256, "batch_tokens": 4096}
        async with running_pooler(tmp_path, settings) as client:
            stream = client.pool(PoolRequest((TokenPrompt((1, 2, 3)),) * n_texts, normalize=False))
            assert await anext(stream) == PoolStarted(3 * n_texts)
            while client.open_requests:  # it reads nothing while others are answered
                assert len(vectors_of(await read_pool(client, texts("another")))) == 1
            rest = [event async for event in stream]
            assert isinstance(rest[-1], PoolFinished)
            vectors = vectors_of(rest)
            assert len(vectors) == n_texts
            assert {len(vector) for vector in vectors} == {4 * dimensions}
            assert max(len(event.data) for event in rest if isinstance(event, Pooled)) <= 1024 * 1024

    run(scenario())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("vectors_without_end", "More vectors came than were asked for"),
        ("text_for_a_pooling_request", "A Started event came for a request of another kind"),
    ],
)
def test_a_worker_that_answers_otherwise_than_asked_is_killed(run: Run, script: str, reason: str) -> None:
    async def scenario() -> None:
        async with scripted_worker(script) as client:
            with pytest.raises(WorkerCrashedError, match=reason) as caught:
                await read_pool(client, texts("a"))
            assert caught.value.detail == {"signal": "SIGKILL", "cause": "protocol"}

    run(scenario())


def test_a_worker_that_answers_a_prompt_with_vectors_is_killed(run: Run) -> None:
    async def scenario() -> None:
        async with scripted_worker("vectors_for_a_prompt") as client:
            with pytest.raises(WorkerCrashedError, match="another kind"):
                await read_all(client, ask())

    run(scenario())
