"""Interceptors: asked in order, before the model is loaded; the last event waits for them; they are always let go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from localllm.contract.backend import ModelClient
from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError, WorkerCrashedError
from localllm.contract.generation import (
    CallDelta,
    ChatPrompt,
    ChoiceFinished,
    Chunk,
    Finished,
    GenerateEvent,
    GenerateRequest,
    SamplingParams,
    Started,
    Usage,
)
from localllm.contract.interception import Answered, Asked, Interception, SessionWish
from localllm.server.pipeline import stream_generation
from localllm.server.record import RequestRecord, request_record
from localllm.testing.app import SCRIPTED_MODEL, ScriptedModels

CHAT = GenerateRequest(ChatPrompt(({"role": "user", "content": "Hi"},)))


@dataclass
class Part:
    """Writes down what happens to it; ``faults`` are raised by the methods that they name."""

    name: str
    log: list[str]
    faults: Mapping[str, BaseException]
    told: Mapping[str, Any]
    gate: asyncio.Event | None = None
    answers: list[Answered] = field(default_factory=list)

    async def prepare(self, generate: GenerateRequest, client: ModelClient) -> GenerateRequest:
        self._note("prepare")
        assert client.info.context_length
        assert isinstance(generate.prompt, ChatPrompt)
        before = {"role": "system", "content": self.name}
        return replace(generate, prompt=replace(generate.prompt, messages=(before, *generate.prompt.messages)))

    @property
    def fields(self) -> Mapping[str, Any]:
        return self.told

    async def after(self, answer: Answered) -> None:
        self._note("after")
        if self.gate is not None:
            await self.gate.wait()
        self.answers.append(answer)

    async def leave(self) -> None:
        self._note("leave")

    def _note(self, what: str) -> None:
        self.log.append(f"{self.name} {what}")
        if what in self.faults:
            raise self.faults[what]


@dataclass
class Watcher:
    """An interceptor that plays a :class:`Part` in everything, or in nothing if it ``passes``."""

    name: str
    log: list[str]
    faults: Mapping[str, BaseException] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)
    passes: bool = False
    gate: asyncio.Event | None = None  # in the way of noting an answer
    asked: list[Asked] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    async def before(self, asked: Asked) -> Interception | None:
        self.log.append(f"{self.name} before")
        self.asked.append(asked)
        if "before" in self.faults:
            raise self.faults["before"]
        if self.passes:
            return None
        self.parts.append(Part(self.name, self.log, self.faults, self.told, self.gate))
        return self.parts[-1]


class Scene:
    """One request to a scripted model, seen by watchers."""

    def __init__(self, *watchers: Watcher) -> None:
        self.models = ScriptedModels()
        self.model = self.models.model
        self.context: Any = SimpleNamespace(models=self.models, interceptors=lambda: watchers)
        self.request = Request({"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""})
        self.events: list[GenerateEvent] = []
        self.begun = asyncio.Event()

    @property
    def record(self) -> RequestRecord:
        return request_record(self.request.scope)

    async def generate(self, generate: GenerateRequest = CHAT, session: SessionWish | None = None) -> None:
        events = stream_generation(self.request, self.context, None, generate, session=session)
        async with aclosing(events):
            async for event in events:
                self.events.append(event)
                self.begun.set()


def watchers(*names: str, **options: Any) -> tuple[list[str], list[Watcher]]:
    log: list[str] = []
    return log, [Watcher(name, log, **options) for name in names]


def test_parts_are_played_in_order_and_let_go_in_reverse() -> None:
    log, found = watchers("a", "b")
    scene = Scene(*found)
    scene.record.request_id, scene.record.caller, scene.record.owner = "r", "anna", "everybody"
    asyncio.run(scene.generate(session=SessionWish(None, "conversation")))
    assert log == [
        "a before", "b before", "a prepare", "b prepare", "a after", "b after", "b leave", "a leave",
    ]  # fmt: skip
    (asked,) = found[0].asked
    assert (asked.request_id, asked.owner, asked.model.id) == ("r", "anna", "scripted")
    assert (asked.generate, asked.session) == (CHAT, SessionWish(None, "conversation"))
    (request,) = scene.model.requests
    assert isinstance(request.prompt, ChatPrompt)
    assert [message["content"] for message in request.prompt.messages] == ["b", "a", "Hi"]
    assert request.owner == "everybody"
    assert isinstance(scene.events[-1], Finished)


def test_the_model_that_was_seen_answers_though_the_default_changes_meanwhile() -> None:
    class Models(ScriptedModels):
        def acquire(self, name: str | None, *args: Any, **options: Any) -> Any:
            acquired.append(self.resolve(name, *args).id)
            return super().acquire(name, *args, **options)

    class Reload(Watcher):
        async def before(self, asked: Asked) -> Interception | None:
            scene.models.specs.reverse()
            return await super().before(asked)

    acquired: list[str] = []
    watcher = Reload("a", [])
    scene = Scene(watcher)
    scene.models = scene.context.models = Models([SCRIPTED_MODEL, replace(SCRIPTED_MODEL, id="later", aliases=())])
    asyncio.run(scene.generate())
    assert [asked.model.id for asked in watcher.asked] == acquired == [SCRIPTED_MODEL.id] == [scene.record.model]


def test_nobody_interested_changes_nothing() -> None:
    log, found = watchers("a", passes=True)
    scene = Scene(*found)
    asyncio.run(scene.generate())
    assert log == ["a before"]
    assert scene.model.requests == [CHAT]
    assert all(not event.fields for event in scene.events if isinstance(event, Started))


def test_refusing_costs_no_model() -> None:
    log, (first, second) = watchers("a", "b")
    second.faults = {"before": InvalidRequestError("no")}
    scene = Scene(first, second)
    with pytest.raises(InvalidRequestError):
        asyncio.run(scene.generate())
    assert (log, scene.model.requests, scene.models.n_acquired) == (["a before", "b before", "a leave"], [], 0)
    assert scene.record.finish == "invalid_request"


def test_what_they_tell_stands_in_the_first_event() -> None:
    log: list[str] = []
    first, second = Watcher("a", log, told={"x": 1, "y": 1}), Watcher("b", log, told={"y": 2})
    scene = Scene(first, second)
    asyncio.run(scene.generate())
    (started,) = [event for event in scene.events if isinstance(event, Started)]
    assert started.fields == {"x": 1, "y": 2}


def test_the_last_event_waits_for_all_of_them() -> None:
    async def scenario() -> None:
        _, found = watchers("a")
        scene = Scene(*found)
        found[0].gate = gate = asyncio.Event()
        running = asyncio.create_task(scene.generate())
        for _ in range(100):
            await asyncio.sleep(0)
        assert isinstance(scene.events[-1], ChoiceFinished)
        gate.set()
        await running
        assert isinstance(scene.events[-1], Finished)

    asyncio.run(scenario())


@pytest.mark.parametrize("where", ["prepare", "after", "leave"])
def test_what_they_raise_is_what_the_caller_gets(where: str) -> None:
    log, (first, second) = watchers("a", "b")
    second.faults = {where: InvalidRequestError(where)}
    scene = Scene(first, second)
    with pytest.raises(InvalidRequestError, match=where):
        asyncio.run(scene.generate())
    assert log[-2:] == ["b leave", "a leave"]
    assert (scene.model.n_open, scene.models.n_acquired) == (0, 0)
    if where == "after":
        assert isinstance(scene.events[-1], ChoiceFinished)
        assert (scene.record.finish, scene.record.usage) == ("invalid_request", Usage(4, 2))


def test_a_bug_in_one_does_not_keep_the_others() -> None:
    log, (first, second) = watchers("a", "b")
    second.faults = {"leave": ZeroDivisionError()}
    with pytest.raises(ZeroDivisionError):
        asyncio.run(Scene(first, second).generate())
    assert log[-2:] == ["b leave", "a leave"]


def test_a_cancellation_while_one_leaves_does_not_keep_the_others() -> None:
    log, (first, second) = watchers("a", "b")
    second.faults = {"leave": asyncio.CancelledError()}
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Scene(first, second).generate())
    assert log[-2:] == ["b leave", "a leave"]


def test_a_failed_generation_is_no_answer() -> None:
    log, found = watchers("a")
    scene = Scene(*found)
    scene.model.answers.append(WorkerCrashedError("gone"))
    with pytest.raises(WorkerCrashedError):
        asyncio.run(scene.generate())
    assert log == ["a before", "a prepare", "a leave"]


@pytest.mark.parametrize("n_events", range(5))
def test_a_reader_that_stops_early_leaves_no_answer(n_events: int) -> None:
    async def scenario() -> None:
        log, found = watchers("a")
        scene = Scene(*found)
        async with aclosing(stream_generation(scene.request, scene.context, None, CHAT)) as events:
            for _ in range(n_events):
                await anext(events)
        begun = ["a before", "a prepare"] if n_events else []
        assert log == [*begun, *(["a leave"] if n_events else [])]
        assert (scene.model.n_open, scene.models.n_acquired) == (0, 0)

    asyncio.run(scenario())


def test_a_cancelled_request_lets_them_go() -> None:
    async def scenario() -> None:
        log, found = watchers("a")
        scene = Scene(*found)
        running = asyncio.create_task(scene.generate())
        await scene.begun.wait()
        running.cancel()
        await asyncio.wait([running])
        assert log == ["a before", "a prepare", "a leave"]
        assert scene.record.finish == "cancelled"

    asyncio.run(scenario())


ANSWERS: dict[str, tuple[Sequence[Chunk | CallDelta], dict[str, Any]]] = {
    "text": ([Chunk(0, "Hel", 1), Chunk(0, "lo", 1)], {"role": "assistant", "content": "Hello"}),
    "thought": (
        [Chunk(0, "h", 1, region="reasoning"), Chunk(0, "m", 1, region="reasoning"), Chunk(0, "Hi", 1)],
        {"role": "assistant", "content": "Hi", "reasoning_content": "hm"},
    ),
    "calls": (
        [CallDelta(0, 0, "f", '{"a":'), CallDelta(0, 0, None, " 1}"), CallDelta(0, 1, "g")],
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "0", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                {"id": "1", "type": "function", "function": {"name": "g", "arguments": ""}},
            ],
        },
    ),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_they_get_the_answer_as_a_message(kind: str) -> None:
    pieces, message = ANSWERS[kind]
    _, (watcher,) = watchers("a")
    scene = Scene(watcher)
    scene.model.answers.append(pieces)
    asyncio.run(scene.generate())
    (answer,) = watcher.parts[0].answers
    (choice,) = answer.choices
    seen = [event.id for event in scene.events if isinstance(event, CallDelta) and event.name is not None]
    found = dict(choice.message)
    if "tool_calls" in found:
        assert [call["id"] for call in found["tool_calls"]] == seen
        assert len({*seen}) == 2
        found["tool_calls"] = [{**call, "id": str(seen.index(call["id"]))} for call in found["tool_calls"]]
    assert found == message
    assert choice.reason == ("tool_calls" if kind == "calls" else "stop")
    assert answer.usage.prompt_tokens == 4


def test_they_get_every_choice() -> None:
    _, (watcher,) = watchers("a")
    asyncio.run(Scene(watcher).generate(replace(CHAT, sampling=SamplingParams(n=3))))
    (answer,) = watcher.parts[0].answers
    assert [choice.message["content"] for choice in answer.choices] == ["Hello there"] * 3


def test_calls_have_ids_without_any_interceptor() -> None:
    scene = Scene()
    scene.model.answers.append([CallDelta(0, 0, "f", "{}"), CallDelta(0, 0, None, "")])
    asyncio.run(scene.generate())
    first, second = (event for event in scene.events if isinstance(event, CallDelta))
    assert (first.id.startswith("call_"), second.id) == (True, "")


@pytest.mark.parametrize(
    ("options", "is_kept"),
    [([], False), ([{"passes": True}], False), ([{}], False), ([{"told": {"session_id": "s"}}, {}], True)],
)
def test_a_named_conversation_needs_somebody_who_keeps_it(options: list[dict[str, Any]], is_kept: bool) -> None:
    log: list[str] = []
    scene = Scene(*(Watcher(str(number), log, **one) for number, one in enumerate(options)))
    wish = SessionWish("s", "conversation")
    if is_kept:
        asyncio.run(scene.generate(session=wish))
        return
    with pytest.raises(UnsupportedFeatureError, match="needs a plugin that keeps conversations") as caught:
        asyncio.run(scene.generate(session=wish))
    assert (caught.value.param, scene.model.requests) == ("conversation", [])
    assert log.count("0 leave") == log.count("0 prepare")
