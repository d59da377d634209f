"""Loads, unloads, answers, cancels and crashes in any order, of models and instances, in room for one or for four."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.errors import (
    ModelBusyError,
    ModelLoadError,
    ModelNotLoadedError,
    UnavailableError,
    WorkerCrashedError,
)
from localllm.contract.events import Event, ModelLoaded, ModelUnloaded, WorkerDied
from localllm.contract.model import Mode
from localllm.host.registry import ModelRegistry
from localllm.host.residency import InstanceKey
from localllm.host.states import ModelState
from tests.process.conftest import Run
from tests.process.faulty_workers import CRASH_SEED
from tests.process.harness import Models, ask, finished, read_all, running_registry, scripted_argv, text_of, workers

pytestmark = pytest.mark.process

FULL = os.environ.get("LOCALLLM_TEST_FULL") == "1"
STORMS = 200 if FULL else 12
AT_A_TIME = 4
ACTIONS = 16
SECONDS = 0.6  # within which all actions begin

REFUSALS = (ModelLoadError, ModelNotLoadedError, UnavailableError, WorkerCrashedError)
"""What a request may be told when models are unloaded by force, die, rest after deaths, or must not be loaded."""

IN_PLACE = {ModelState.LOADING, ModelState.READY, ModelState.DRAINING}
"""A load that everybody left goes on, and a worker may just be leaving, when the last request is over."""

CHOICES = {"answer": 8, "cancel": 4, "load": 2, "unload": 3, "force": 1, "crash": 1, "only if loaded": 1}


class Storm:
    """One seeded storm over one registry."""

    def __init__(self, registry: ModelRegistry, seed: int, names: str) -> None:
        self.random = random.Random(seed)
        self.registry = registry
        self.names = names
        self.outcomes: list[str] = []

    async def run(self) -> None:
        names = [self.random.choices(list(CHOICES), CHOICES.values())[0] for _ in range(ACTIONS)]
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._act(name, self.random.choice(self.names), self.random.uniform(0, SECONDS)))

    async def _act(self, action: str, model: str, begin_seconds: float) -> None:
        await asyncio.sleep(begin_seconds)
        try:
            match action:
                case "load":
                    await self.registry.load(model, Mode.GENERATE)
                case "unload" | "force":
                    is_forced = action == "force"
                    deadline = 0.0 if is_forced else 0.3
                    await self.registry.unload(model, deadline_seconds=deadline, force=is_forced)
                case "cancel":
                    await self._leave_early(model)
                case _:
                    await self._answer(model, crash=action == "crash", autoload=action != "only if loaded")
        except (*REFUSALS, ModelBusyError) as error:
            self.outcomes.append(error.code)
        else:
            self.outcomes.append("done")

    async def _answer(self, model: str, *, crash: bool, autoload: bool) -> None:
        n_pieces = self.random.randint(1, 20)
        options: dict[str, Any] = {"seed": CRASH_SEED} if crash else {}
        async with self.registry.acquire(model, Mode.GENERATE, autoload=autoload) as client:
            events = await read_all(client, ask(max_tokens=n_pieces, **options))
        assert text_of(events) == "x" * n_pieces
        assert finished(events)

    async def _leave_early(self, model: str) -> None:
        task = asyncio.create_task(self._answer(model, crash=False, autoload=True))
        await asyncio.wait({task}, timeout=self.random.uniform(0, SECONDS))
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


async def weather(seed: int, state: Path) -> None:
    """Run one storm and look at what it has left."""
    mark = f"storm-{seed}"
    seen: list[Event] = []
    crowds: list[list[int]] = []

    def note(event: Event) -> None:
        seen.append(event)
        if isinstance(event, ModelLoaded):
            crowds.append(workers(mark))

    models, room = Models(a={}, b={"load_seconds": 0.1}, c={"fails": seed % 3 == 0}), (1, 4)[seed % 2]
    for name in "ab":
        models.change(replace(models.resolve(name), max_instances=2))
    async with running_registry(
        models,
        state,
        emit=note,
        max_loaded=room,
        patience_seconds=0.1,
        worker_argv=(*scripted_argv("lives_as_the_settings_say"), mark),
    ) as registry:
        storm = Storm(registry, seed, "abc" if room == 1 else "aaabc")
        async with asyncio.timeout(45):
            await storm.run()
        assert len(storm.outcomes) == ACTIONS
        instances = [one for status in registry.status() for one in status.instances]
        for status in (*registry.status(), *instances):
            assert (status.in_flight, status.waiting) == (0, 0)
        if registry.room.crowded:
            assert any(one.state is ModelState.QUEUED for one in instances), (
                "one that others do without may be on its way"
            )
        states = {InstanceKey(one.id, one.mode, one.number): one.state for one in instances}
        held = set(registry.room.held)
        assert {key for key, state in states.items() if state in IN_PLACE} <= held
        assert {states.get(key) for key in held} <= IN_PLACE | {ModelState.QUEUED}, "one has only just been let in"
        assert len(held) <= room
    assert not registry.room.held
    assert workers(mark) == []
    assert all(1 <= len(pids) <= room for pids in crowds), "more was in memory than there was room for"
    n_loaded, n_unloaded = (sum(isinstance(event, kind) for event in seen) for kind in (ModelLoaded, ModelUnloaded))
    n_died = sum(isinstance(event, WorkerDied) for event in seen)
    assert n_loaded == n_unloaded + n_died


@pytest.mark.parametrize("first_seed", range(0, STORMS, AT_A_TIME))
def test_storms_end_with_everybody_answered_and_nobody_left_inside(run: Run, tmp_path: Path, first_seed: int) -> None:
    """Some at a time, each over a registry of its own: they wait more than they compute."""

    async def one(seed: int) -> None:
        try:
            await weather(seed, tmp_path / str(seed))
        except BaseException as error:
            error.add_note(f"in the storm with seed {seed}")
            raise

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            for seed in range(first_seed, first_seed + AT_A_TIME):
                group.create_task(one(seed))

    run(scenario())
