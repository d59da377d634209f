"""Several generations as one: numbering, sums, errors, leaving early."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from localllm.contract.errors import ContextLengthExceededError, ProtocolError
from localllm.contract.generation import (
    ChoiceFinished,
    Chunk,
    Finished,
    PromptLogprobs,
    PromptToken,
    Started,
    Timings,
    Usage,
)
from localllm.openai import merge_generations


def generation(text: str, *, tokens: int, n: int = 1) -> list[Any]:
    """One answer per choice; ``tokens`` makes counts and times that tell the generations apart."""
    texts = [Chunk(k, f"{text}{k}", 1) for k in range(n)]
    ends = [ChoiceFinished(k, "stop") for k in range(n)]
    counts = Usage(prompt_tokens=tokens, completion_tokens=n, cached_tokens=1)
    return [Started(tokens), *texts, *ends, Finished(counts, Timings(1.0 * tokens, 2.0 * tokens, 3.0))]


def test_choices_are_numbered_by_prompt_then_answer(script: Any, gather: Any) -> None:
    scripts = [script(*generation(name, tokens=size, n=2)) for name, size in (("a", 3), ("b", 5), ("c", 4))]
    events = gather(merge_generations([one.play() for one in scripts], n=2))
    assert events[0] == Started(12)
    assert {event.choice: event.text for event in events if isinstance(event, Chunk)} == {
        0: "a0",
        1: "a1",
        2: "b0",
        3: "b1",
        4: "c0",
        5: "c1",
    }
    assert sorted(event.choice for event in events if isinstance(event, ChoiceFinished)) == list(range(6))
    assert events[-1] == Finished(Usage(12, 6, 3), Timings(5.0, 10.0, 3.0))
    assert [type(event) for event in events].count(Finished) == 1


def test_one_generation_passes_unchanged(script: Any, gather: Any) -> None:
    events = generation("a", tokens=3, n=2)
    assert gather(merge_generations([script(*events).play()], n=2)) == events


def test_failure_of_one_ends_all_before_any_text(script: Any) -> None:
    endless = script(Started(1), *[Chunk(0, "x", 1)] * 100_000)
    failing = script(ContextLengthExceededError(9, 8))

    async def read() -> list[Any]:
        return [event async for event in merge_generations([endless.play(), failing.play()], n=1)]

    with pytest.raises(ContextLengthExceededError):
        asyncio.run(read())
    assert endless.played < 1000


def test_generation_without_an_end_is_an_error(script: Any, gather: Any) -> None:
    cut = script(Started(1), Chunk(0, "x", 1))
    with pytest.raises(ProtocolError):
        gather(merge_generations([cut.play(), script(*generation("b", tokens=2)).play()], n=1))


def test_leaving_early_closes_all(script: Any) -> None:
    scripts = [script(Started(1), *[Chunk(0, "x", 1)] * 100_000) for _ in range(3)]

    async def leave() -> set[asyncio.Task[Any]]:
        merged = merge_generations([one.play() for one in scripts], n=1)
        assert await anext(merged) == Started(3)
        await merged.aclose()
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert asyncio.run(leave()) == set()
    assert all(one.played < 1000 for one in scripts)


def test_slow_reader_holds_the_generations_back(script: Any) -> None:
    scripts = [script(Started(1), *[Chunk(0, "x", 1)] * 100_000) for _ in range(2)]

    async def read_one_event() -> None:
        merged = merge_generations([one.play() for one in scripts], n=1)
        await anext(merged)
        for _ in range(2000):  # turns of the event loop, in which an unbounded buffer would fill
            await asyncio.sleep(0)
        assert sum(one.played for one in scripts) < 200
        await merged.aclose()

    asyncio.run(read_one_event())


def test_prompts_are_counted_and_a_warning_is_given_once(script: Any, gather: Any) -> None:
    def scored(name: str, *warnings: str) -> Any:
        _, *rest = generation(name, tokens=1)
        score = PromptLogprobs((PromptToken(1, name, name.encode(), None),))
        return script(Started(1, warnings), score, *rest).play()

    first, *events = gather(merge_generations([scored("a", "x", "y"), scored("b", "y"), scored("c", "x", "z")], n=1))
    assert first == Started(3, ("x", "y", "z"))
    scores = {event.prompt: event.tokens[0].text for event in events if isinstance(event, PromptLogprobs)}
    assert scores == {0: "a", 1: "b", 2: "c"}
    for index in range(3):
        of_one = [event for event in events if getattr(event, "prompt", getattr(event, "choice", None)) == index]
        assert [type(event) for event in of_one] == [PromptLogprobs, Chunk, ChoiceFinished]
