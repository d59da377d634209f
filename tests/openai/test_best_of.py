"""The choice among answers: by log-probability per token, not in all, and stable."""

from __future__ import annotations

from localllm.contract.generation import TokenLogprob
from localllm.openai import best_answers
from localllm.openai.answers import Answer


def answer(name: str, *logprobs: float) -> Answer:
    return Answer(text=[name], logprobs=[TokenLogprob("x", b"x", logprob) for logprob in logprobs], reason="stop")


def names(answers: list[Answer]) -> list[str]:
    return ["".join(one.text) for one in answers]


def test_mean_counts_not_the_sum() -> None:
    drawn = [answer("short", -2.0), answer("long", -1.0, -1.0, -1.0), answer("worst", -3.0)]
    assert names(best_answers(drawn, n=2, drawn=3)) == ["long", "short"]


def test_each_prompt_has_its_own_best() -> None:
    drawn = [answer("a0", -5.0), answer("a1", -4.0), answer("b0", -1.0), answer("b1", -2.0)]
    assert names(best_answers(drawn, n=1, drawn=2)) == ["a1", "b0"]


def test_of_equals_the_earlier_wins() -> None:
    assert names(best_answers([answer("first", -1.0), answer("second", -1.0)], n=1, drawn=2)) == ["first"]


def test_empty_and_impossible_answers_come_last() -> None:
    drawn = [answer("empty"), answer("banned", -0.1, float("-inf")), answer("fine", -50.0)]
    assert names(best_answers(drawn, n=3 - 1, drawn=3)) == ["fine", "banned"]


def test_as_many_as_drawn_keep_their_order() -> None:
    assert names(best_answers([answer("b", -2.0), answer("a", -1.0)], n=2, drawn=2)) == ["b", "a"]
