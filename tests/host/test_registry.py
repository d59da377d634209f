"""Names become loaded models: one load however many wait, typed errors, a breaker, a bounded queue."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from localllm.contract.backend import BackendSpec
from localllm.contract.errors import (
    ModelFileError,
    ModelLoadError,
    ModelNotFoundError,
    ModelUnsupportedError,
    OverloadedError,
    UnavailableError,
)
from localllm.contract.events import ModelLoaded
from localllm.contract.model import Mode, ModelKind
from localllm.host.registry import ModelRegistry, RegistrySettings
from localllm.host.states import ModelState
from tests.event_loop import settle
from tests.host.registry_kit import GENERATE, NOTE, Models, Play, World


def test_names_resolve_or_say_what_is_wrong(play: Play) -> None:
    async def scenario(world: World) -> None:
        registry = world.registry
        assert registry.resolve(None, GENERATE).id == "chat"
        with pytest.raises(ModelNotFoundError):
            registry.resolve("nobody", GENERATE)
        for name, word in (("bert", "embedding"), ("judge", "reranker")):
            with pytest.raises(ModelUnsupportedError, match=word) as caught:
                registry.resolve(name, GENERATE)
            assert caught.value.param == "model"
            assert registry.resolve(name, Mode.POOL).id == name
        with pytest.raises(ModelUnsupportedError, match=r"engine 'nobody'.*remote"):
            registry.resolve("orphan", GENERATE)
        assert [spec.id for spec in registry.list_specs()] == ["chat", "bert", "judge", "orphan"]
        assert registry.status() == []

    play(scenario)


@pytest.mark.parametrize(
    ("purpose", "default", "fit", "unfit"),
    [
        (ModelKind.EMBEDDING, "bert", ["bert", "chat"], {"judge": "'reranker' and can't give embeddings"}),
        (ModelKind.RERANKER, "judge", ["judge", "bert"], {"chat": "'chat' and can't rank documents"}),
        (None, "bert", ["bert", "chat", "judge"], {}),
    ],
)
def test_what_a_model_is_wanted_for_chooses_the_default_and_refuses_the_unfit(
    play: Play, purpose: ModelKind | None, default: str, fit: list[str], unfit: dict[str, str]
) -> None:
    async def scenario(world: World) -> None:
        registry = world.registry
        assert registry.resolve(None, Mode.POOL, purpose).id == default
        assert [registry.resolve(name, Mode.POOL, purpose).id for name in fit] == fit
        for name, words in unfit.items():
            with pytest.raises(ModelUnsupportedError, match=words) as caught:
                registry.resolve(name, Mode.POOL, purpose)
            assert caught.value.message.endswith(f"Models that can: {', '.join(fit)}.")
            assert caught.value.param == "model"

    play(scenario)


def test_a_model_is_loaded_once_for_each_mode(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with world.registry.acquire("chat", GENERATE) as writer, world.registry.acquire("chat", Mode.POOL) as one:
            assert one is not writer
            async with world.registry.acquire("chat", Mode.POOL) as other:
                assert other is one
        assert [(status.id, status.mode) for status in world.registry.status()] == [
            ("chat", GENERATE),
            ("chat", Mode.POOL),
        ]

    play(scenario)


def test_where_no_model_can_the_error_says_what_to_do(tmp_path: Path) -> None:
    backend = BackendSpec("remote", frozenset({GENERATE}), factory="a:b")
    registry = ModelRegistry(Models(), {"remote": backend}, RegistrySettings(tmp_path), lambda event: None, lambda: 0.0)
    with pytest.raises(ModelUnsupportedError, match=r"No model here can; put one into the models' folder embedding/\."):
        registry.resolve("chat", Mode.POOL, ModelKind.EMBEDDING)


def test_a_model_that_the_engine_refuses_for_a_mode_is_not_loaded_and_others_are_named(tmp_path: Path) -> None:
    backend = BackendSpec(
        "remote",
        frozenset(Mode),
        factory="a:b",
        refuses=lambda spec, mode: "it only drafts" if (spec.id, mode) == ("chat", Mode.POOL) else None,
    )
    registry = ModelRegistry(Models(), {"remote": backend}, RegistrySettings(tmp_path), lambda event: None, lambda: 0.0)
    with pytest.raises(
        ModelUnsupportedError, match=r"'chat' can't be loaded to pool: it only drafts\. Models that can: "
    ) as caught:
        registry.resolve("chat", Mode.POOL, ModelKind.EMBEDDING)
    assert "chat" not in caught.value.message.partition("Models that can: ")[2]
    assert registry.resolve("chat", GENERATE).id == "chat"


def test_a_mode_that_the_engine_lacks_is_refused(tmp_path: Path) -> None:
    backend = BackendSpec("remote", frozenset({GENERATE}), factory="a:b")
    registry = ModelRegistry(Models(), {"remote": backend}, RegistrySettings(tmp_path), lambda event: None, lambda: 0.0)
    with pytest.raises(ModelUnsupportedError, match="'bert' can't be loaded to pool"):
        registry.resolve("bert", Mode.POOL)


def test_one_load_however_many_wait(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        uses = [world.use() for _ in range(50)]
        await settle()
        (status,) = world.registry.status()
        assert (status.state, status.waiting, status.in_flight) == (ModelState.LOADING, 50, 0)
        world.remote.gate.set()
        clients = {id(await use.entered) for use in uses}
        (status,) = world.registry.status()
        assert (status.state, status.waiting, status.in_flight) == (ModelState.READY, 0, 50)
        assert (world.remote.calls, len(clients)) == (1, 1)
        for use in uses:
            await use.end()
        assert world.registry.status()[0].in_flight == 0
        assert world.events == [ModelLoaded("chat", 0.0)]

    play(scenario)


def test_what_the_engine_notes_while_loading_is_in_the_log(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        async with world.registry.acquire("chat", GENERATE):
            pass

    with caplog.at_level(logging.INFO, "localllm.host"):
        play(scenario)
    assert f"chat: {NOTE}" in caplog.messages


def test_a_waiter_that_gives_up_ends_neither_the_load_nor_the_others(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        first, second = world.use(), world.use()
        await settle()
        first.task.cancel()
        await settle()
        world.remote.gate.set()
        assert await second.entered is world.remote.clients[0]
        await second.end()

    play(scenario)


def test_a_load_that_everybody_left_finishes_and_serves_the_next(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        only = world.use()
        await settle()
        only.task.cancel()
        await settle()
        assert world.state is ModelState.LOADING
        world.remote.gate.set()
        await settle()
        assert world.state is ModelState.READY
        late = world.use()
        await late.entered
        assert world.remote.calls == 1
        await late.end()

    play(scenario)


def test_a_failed_load_fails_each_waiter_with_an_error_of_its_own_and_is_tried_again(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.error = ModelFileError("tensor 3 is cut off")
        uses = [world.use() for _ in range(3)]
        outcomes = await asyncio.gather(*(use.entered for use in uses), return_exceptions=True)
        assert [(type(error), str(error)) for error in outcomes] == [(ModelFileError, "tensor 3 is cut off")] * 3
        assert len(set(map(id, outcomes))) == 3
        (status,) = world.registry.status()
        assert (status.state, status.waiting, status.error) == (ModelState.FAILED, 0, "tensor 3 is cut off")
        world.remote.error = None
        again = world.use()
        await again.entered
        (status,) = world.registry.status()
        assert (status.state, status.error, world.remote.calls) == (ModelState.READY, None, 2)
        await again.end()

    play(scenario)


def test_a_backend_that_raises_what_it_should_not_is_a_load_error_that_names_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.error = ZeroDivisionError("division by zero")
        with pytest.raises(ModelLoadError, match=r"'remote'.*'chat': ZeroDivisionError"):
            await world.use().entered

    play(scenario)


def test_a_backend_that_never_connects_is_given_up(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        with pytest.raises(ModelLoadError, match=r"within 0\.05 seconds"):
            await world.use().entered

    play(scenario, load_timeout_seconds=0.05)


def test_three_failures_open_the_breaker_and_a_probe_after_the_rest_closes_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.error = ModelLoadError("no memory")
        for _ in range(3):
            with pytest.raises(ModelLoadError):
                await world.use().entered
        with pytest.raises(UnavailableError, match="no memory") as caught:
            await world.use().entered
        assert caught.value.detail == {"retry_after_seconds": 10}
        assert world.remote.calls == 3
        world.remote.error = None
        world.now += 10
        use = world.use()
        await use.entered
        await use.end()

    play(scenario)


def test_a_full_model_refuses_the_next_request_at_once_while_loading_and_while_busy(play: Play) -> None:
    async def scenario(world: World) -> None:
        world.remote.gate.clear()
        uses = [world.use(), world.use()]
        await settle()
        with pytest.raises(OverloadedError, match="0 requests running and 2 waiting") as caught:
            await world.use().entered
        assert caught.value.detail == {"retry_after_seconds": 1}
        world.remote.gate.set()
        for use in uses:
            await use.entered
        with pytest.raises(OverloadedError, match="2 requests running"):
            await world.use().entered
        await uses[0].end()
        third = world.use()
        await third.entered
        for use in (uses[1], third):
            await use.end()

    play(scenario, max_queue=2)
