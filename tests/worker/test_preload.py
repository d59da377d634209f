"""What is preloaded are the tokens that all conversations share which begin so; what can't be is a note."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from localllm.contract.backend import LoadRequest
from localllm.contract.chat_format import RenderedPrompt
from localllm.contract.generation import ChatPrompt, Constraint, Finished, GenerateRequest, SamplingParams
from localllm.contract.model import Mode
from localllm.contract.wire import Submit
from localllm.testing.decoders import FakeModel, load_fake
from localllm.testing.poolers import load_fake_pooler
from localllm.worker.discipline import Generation, Pooling, discipline_of
from localllm.worker.preload import preload_tokens

SYSTEM = {"role": "system", "content": "You are terse."}
USER = {"role": "user", "content": "Hello"}


def said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def fake(**settings: Any) -> FakeModel:
    return load_fake(LoadRequest("m", None, Mode.GENERATE, settings))


def text(*messages: dict[str, Any]) -> str:
    return bytes(preload_tokens(ChatPrompt(messages), fake())).decode()


def test_a_beginning_goes_as_far_as_every_conversation_does_that_begins_so() -> None:
    assert text(SYSTEM) == "system: You are terse.\nuser: "
    assert text(SYSTEM, USER) == "system: You are terse.\nuser: Hello\nassistant:"
    assert text(SYSTEM, USER, said("assistant", "Yes?")) == (
        "system: You are terse.\nuser: Hello\nassistant: Yes?\nuser: "
    )


class Hoisting:
    """Writes the first message into the last one, and none of the others as it was."""

    def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
        contents = [message["content"] for message in prompt.messages]
        return RenderedPrompt(f"<{contents[0]}> {len(contents)} messages: {contents[-1]}")


def test_a_template_that_moves_messages_leaves_what_it_does_not_move() -> None:
    model = replace(fake(), renderer=Hoisting())
    assert bytes(preload_tokens(ChatPrompt((SYSTEM,)), model)) == b"<You are terse.> 2 messages: "


def run(discipline: Generation, *requests: tuple[str, ChatPrompt]) -> dict[str, int]:
    """How many tokens of each owner's prompt were cached."""
    for owner, prompt in requests:
        submit = Submit(owner, GenerateRequest(prompt, SamplingParams(max_tokens=2), owner=owner))
        for prepared in discipline.prepare(submit, 0.0):
            discipline.loop.submit(prepared)
    told: dict[str, int] = {}
    while discipline.loop.has_work:
        for request_id, event in discipline.loop.step().events:
            assert not request_id.startswith("preload")
            if isinstance(event, Finished):
                told[request_id] = event.usage.cached_tokens
    return told


def loaded(model: FakeModel, *beginnings: ChatPrompt) -> Generation:
    discipline = discipline_of(model, Mode.GENERATE, "m", lambda: 0.0)
    discipline.preload(beginnings)
    assert isinstance(discipline, Generation)
    return discipline


def test_the_first_requests_of_all_owners_find_it_and_nothing_tells_of_it() -> None:
    discipline = loaded(fake(parallel=1), ChatPrompt((SYSTEM,)))
    n_tokens = len("system: You are terse.\nuser: ")
    prompt = ChatPrompt((SYSTEM, USER))
    assert run(discipline, ("a", prompt), ("b", prompt)) == {"a": n_tokens, "b": n_tokens}
    discipline.loop.check()
    assert discipline.info.notes == ()


def test_without_a_request_it_is_evaluated_all_the_same() -> None:
    discipline = loaded(fake(), ChatPrompt((SYSTEM,)))
    assert discipline.loop.has_work
    results = [discipline.loop.step()]
    while discipline.loop.has_work:
        results.append(discipline.loop.step())
    assert sum(result.prefilled_tokens for result in results) == len("system: You are terse.\nuser: ")
    assert not [event for result in results for event in result.events]


class Refusing:
    """A template with opinions."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
        raise self._error


@pytest.mark.parametrize(
    ("model", "note"),
    [
        (fake(context_length=16, n_cells=64), "preload[0] is left out: This model's context holds 16 tokens, but"),
        (replace(fake(), renderer=None), "preload[0] is left out: This model has no chat template."),
        (
            replace(fake(), renderer=Refusing(ZeroDivisionError("by zero"))),
            "preload[0] is left out: its template raised ZeroDivisionError: by zero",
        ),
    ],
    ids=["too long", "no template", "a template that fails"],
)
def test_what_can_not_be_preloaded_is_a_note(model: FakeModel, note: str) -> None:
    model = replace(model, info=replace(model.info, notes=("a note of its own",)))
    discipline = loaded(model, ChatPrompt((SYSTEM,)))
    first, second = discipline.info.notes
    assert first == "a note of its own"
    assert second.startswith(note)
    assert not discipline.loop.has_work


def test_one_that_fails_costs_no_other() -> None:
    discipline = loaded(fake(), ChatPrompt((said("system", "x" * 600),)), ChatPrompt((SYSTEM,)))
    assert [note.partition(" ")[0] for note in discipline.info.notes] == ["preload[0]"]
    assert run(discipline, ("a", ChatPrompt((SYSTEM, USER)))) == {"a": len("system: You are terse.\nuser: ")}


def test_a_model_that_pools_has_nothing_to_preload() -> None:
    discipline = discipline_of(load_fake_pooler(LoadRequest("m", None, Mode.POOL)), Mode.POOL, "m", lambda: 0.0)
    discipline.preload((ChatPrompt((SYSTEM,)),))
    assert isinstance(discipline, Pooling)
    assert not discipline.loop.has_work
