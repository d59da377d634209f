"""Which requests are taken to begin alike, and that endpoints pass it on."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.generation import ChatPrompt, InfillPrompt, Prompt, TextPrompt, TokenPrompt
from localllm.server.affinity import affinity_of

LONG = "In a hole in the ground there lived a hobbit. " * 50


def chat(*messages: tuple[str, Any]) -> ChatPrompt:
    return ChatPrompt(tuple({"role": role, "content": content} for role, content in messages))


QUESTION = chat(("system", "Be kind."), ("user", "Who are you?"))


def test_the_turns_of_a_conversation_are_alike_and_other_conversations_are_not() -> None:
    later = ChatPrompt((*QUESTION.messages, {"role": "assistant", "content": "I"}, {"role": "user", "content": "Oh."}))
    assert affinity_of(QUESTION, "", None) == affinity_of(later, "", None)
    for other in (chat(("system", "Be kind."), ("user", "Who am I?")), chat(("user", "Who are you?"))):
        assert affinity_of(other, "", None) != affinity_of(QUESTION, "", None)
    assert affinity_of(QUESTION, "somebody", None) != affinity_of(QUESTION, "", None)


def test_a_session_counts_more_than_what_is_in_the_request() -> None:
    first, second = (affinity_of(chat(("user", text)), "me", "s1") for text in ("Hi", "And then?"))
    assert first == second
    assert first != affinity_of(chat(("user", "Hi")), "me", "s2")
    assert first != affinity_of(chat(("user", "Hi")), "you", "s1")


@pytest.mark.parametrize(
    ("one", "like", "unlike"),
    [
        (TextPrompt(LONG), TextPrompt(f"{LONG} more"), TextPrompt(f"x{LONG}")),
        (TokenPrompt(tuple(range(600))), TokenPrompt(tuple(range(900))), TokenPrompt(tuple(range(1, 601)))),
        (InfillPrompt(LONG, "a"), InfillPrompt(LONG, "b"), InfillPrompt(f"x{LONG}", "a")),
        (chat(("user", [{"type": "text"}])), chat(("user", [{"type": "text"}]), ("user", "x")), chat(("user", [1]))),
    ],
)
def test_prompts_that_begin_alike(one: Prompt, like: Prompt, unlike: Prompt) -> None:
    assert affinity_of(one, "", None) == affinity_of(like, "", None) is not None
    assert affinity_of(one, "", None) != affinity_of(unlike, "", None)


@pytest.mark.parametrize("prompt", [TextPrompt("short"), TokenPrompt((1, 2)), InfillPrompt("a", LONG)])
def test_what_is_evaluated_in_a_moment_may_go_anywhere(prompt: Prompt) -> None:
    assert affinity_of(prompt, "", None) is None
