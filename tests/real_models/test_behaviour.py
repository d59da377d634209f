"""What the whole server does with the bundled demo model: right answers, remembered turns, shared prefixes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from models.training.heldout import heldout_dialogues

pytestmark = [pytest.mark.real_model, pytest.mark.process]

Messages = list[dict[str, str]]


async def ask(client: httpx.AsyncClient, messages: Messages, **fields: Any) -> Any:
    body = {"messages": messages, "temperature": 0, **fields}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def text_of(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


def ask_all(server: Any, conversations: Sequence[Messages], *, at_once: int, **fields: Any) -> list[Any]:
    """Ask everything, so many at the same time, and return the answers in order."""

    async def run() -> list[Any]:
        turns = asyncio.Semaphore(at_once)
        limits = httpx.Limits(max_connections=at_once)
        async with httpx.AsyncClient(base_url=server.url, timeout=50, limits=limits) as client:

            async def one(messages: Messages) -> Any:
                async with turns:
                    return await ask(client, messages, **fields)

            return await asyncio.gather(*(one(messages) for messages in conversations))

    return asyncio.run(run())


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_the_first_answer_of_the_readme(server: Any) -> None:
    (answer,) = ask_all(server, [[user("What is the capital of France?")]], at_once=1)
    assert text_of(answer) == "The capital of France is Paris."


def test_second_turn_evaluates_only_what_is_new(server: Any) -> None:
    first_turn = [user("My name is Zorbani.")]
    (first,) = ask_all(server, [first_turn], at_once=1)
    second_turn = [*first_turn, assistant(text_of(first)), user("What is my name?")]
    (second,) = ask_all(server, [second_turn], at_once=1)
    assert "Zorbani" in text_of(second)
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached >= first["usage"]["prompt_tokens"]
    assert second["timings"]["prompt_n"] == second["usage"]["prompt_tokens"] - cached


def test_prompt_that_must_not_be_cached_is_neither_taken_from_the_cache_nor_left_there(server: Any) -> None:
    question = [user("Repeat after me: lomu vasti perro quindal esto barafin")]
    for _ in range(2):
        (answer,) = ask_all(server, [question], at_once=1, cache_prompt=False)
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    (answer,) = ask_all(server, [question], at_once=1)
    usage = answer["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"] // 2  # the template's opening words


COUNTRIES = (
    *("France", "Germany", "Italy", "Spain", "Portugal", "Ireland", "Belgium", "Austria"),
    *("Denmark", "Sweden", "Norway", "Finland", "Hungary", "Greece", "Turkey", "Japan"),
)
SYSTEM = {
    "role": "system",
    "content": " ".join(f"You are a helpful assistant, and rule {n} is to be kind." for n in range(20)),
}


def test_sixteen_requests_prefill_their_system_prompt_once(server: Any) -> None:
    """Counted, not timed: what the sixteen evaluated together is one system prompt and sixteen short rests."""
    conversations = [[SYSTEM, user(f"What is the capital of {country}?")] for country in COUNTRIES]
    together = ask_all(server, conversations, at_once=16, max_tokens=12)
    alone = ask_all(server, conversations, at_once=1, max_tokens=12, cache_prompt=False)
    assert [text_of(answer) for answer in together] == [text_of(answer) for answer in alone]
    (shortest,) = ask_all(server, [[SYSTEM, user("")]], at_once=1, max_tokens=1, cache_prompt=False)
    shared = shortest["usage"]["prompt_tokens"]
    assert shared > 200
    usages = [answer["usage"] for answer in together]
    evaluated = sum(usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    # A rest is the question and the template's words around it, which ``shared`` counted once already.
    rests = sum(usage["prompt_tokens"] - shared + 10 for usage in usages)
    assert evaluated <= shared + rests


def test_held_out_dialogues_are_answered_right_through_the_server(server: Any) -> None:
    """A small sample of the 500 by which the model's recorded accuracy was measured; at least 90 % must hold here."""
    dialogues = heldout_dialogues(66, 11)
    conversations = [
        [{"role": message.role, "content": message.content} for message in dialogue.messages] for dialogue in dialogues
    ]
    answers = [text_of(answer) for answer in ask_all(server, conversations, at_once=8, max_tokens=300)]
    wrong = Counter(
        dialogue.kind for dialogue, answer in zip(dialogues, answers, strict=True) if not dialogue.accepts(answer)
    )
    assert wrong.total() <= len(dialogues) // 10, wrong
