"""The completions request: the four forms of a prompt, echo, best_of, logprobs."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.errors import InvalidRequestError
from localllm.contract.generation import InfillPrompt, TextPrompt, TokenPrompt
from localllm.openai import parse_completion


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Once", [TextPrompt("Once")]),
        ("", [TextPrompt("")]),
        (["Once", ""], [TextPrompt("Once"), TextPrompt("")]),
        ([1, 2, 0], [TokenPrompt((1, 2, 0))]),
        ([[1], [2, 3]], [TokenPrompt((1,)), TokenPrompt((2, 3))]),
    ],
)
def test_four_forms_of_a_prompt(prompt: Any, expected: list[Any]) -> None:
    requests = parse_completion({"prompt": prompt}).generate_requests()
    assert [request.prompt for request in requests] == expected


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (5, "prompt"),
        (True, "prompt"),
        ({}, "prompt"),
        ([], "prompt"),
        ([[]], "prompt[0]"),
        ([None], "prompt[0]"),
        ([True], "prompt[0]"),
        ([1.5], "prompt[0]"),
        ([{}], "prompt[0]"),
        (["a", 1], "prompt[1]"),
        ([1, "a"], "prompt[1]"),
        ([1, True], "prompt[1]"),
        ([1, -1], "prompt[1]"),
        ([1, 2**31], "prompt[1]"),
        ([1, [2]], "prompt[1]"),
        ([[1], "a"], "prompt[1]"),
        ([[1], [2, None]], "prompt[1][1]"),
        ([[1], []], "prompt[1]"),
        (["a"] * 129, "prompt"),
        ([[1]] * 129, "prompt"),
        ([0] * 1_000_001, "prompt"),
    ],
)
def test_bad_prompt_is_refused_by_path(prompt: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_completion({"prompt": prompt})
    assert caught.value.param == param
    assert caught.value.detail == {}


def test_missing_prompt_is_named() -> None:
    for body in ({}, {"prompt": None}):
        with pytest.raises(InvalidRequestError) as caught:
            parse_completion(body)
        assert caught.value.param == "prompt"


def test_number_of_answers_is_bounded() -> None:
    assert len(parse_completion({"prompt": ["a"] * 32, "n": 4}).generate_requests()) == 32
    with pytest.raises(InvalidRequestError) as caught:
        parse_completion({"prompt": ["a"] * 33, "n": 4}).generate_requests()
    assert caught.value.param == "n"


@pytest.mark.parametrize("value", [True, False, -1, 21, 1.0, "5", []])
def test_bad_logprobs_are_refused(value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_completion({"prompt": "a", "logprobs": value})
    assert caught.value.param == "logprobs"


def test_logprobs_zero_asks_for_the_chosen_token() -> None:
    assert parse_completion({"prompt": "a", "logprobs": 0}).generate_requests()[0].sampling.logprobs == 0


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"logprobs": 3}, None),
        ({"echo": True}, None),  # the text is known, and nothing else is asked for
        ({"echo": True, "logprobs": 3}, 3),
        ({"echo": True, "logprobs": 0}, 0),
        ({"echo": True, "max_tokens": 0}, 0),
        ({"echo": True, "prompt": [1, 2]}, 0),  # the text comes with the tokens
        ({"echo": True, "prompt": [1, 2], "logprobs": 1}, 1),
        ({"prompt_logprobs": 2}, 2),
        ({"echo": True, "logprobs": 5, "prompt_logprobs": 2}, 5),
        ({"echo": True, "logprobs": 1, "prompt_logprobs": 2}, 2),
    ],
)
def test_prompt_is_scored_where_that_is_needed(fields: dict[str, Any], expected: int | None) -> None:
    (request,) = parse_completion({"prompt": "a", **fields}).generate_requests()
    assert request.prompt_logprobs == expected
    assert request.sampling.logprobs == fields.get("logprobs")


def test_no_tokens_may_be_asked_for_with_echo_only() -> None:
    assert (
        parse_completion({"prompt": "a", "echo": True, "max_tokens": 0}).generate_requests()[0].sampling.max_tokens == 0
    )
    for fields in ({}, {"logprobs": 1}, {"prompt_logprobs": 1}):
        with pytest.raises(InvalidRequestError) as caught:
            parse_completion({"prompt": "a", "max_tokens": 0, **fields}).generate_requests()
        assert caught.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", [InfillPrompt("a", "z")]), (["a", ""], [InfillPrompt("a", "z"), InfillPrompt("", "z")])],
)
def test_suffix_makes_a_gap_to_fill(prompt: Any, expected: list[InfillPrompt]) -> None:
    requests = parse_completion({"prompt": prompt, "suffix": "z"}).generate_requests()
    assert [request.prompt for request in requests] == expected


@pytest.mark.parametrize("fields", [{"prompt": [1, 2]}, {"prompt": [[1], [2]]}, {"echo": True}, {"suffix": 5}])
def test_suffix_that_has_no_place_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_completion({"prompt": "a", "suffix": "z", **fields}).generate_requests()
    assert caught.value.param == "suffix"


def test_best_of_draws_more_and_needs_their_logprobs() -> None:
    request = parse_completion({"prompt": "a", "best_of": 5, "n": 2})
    (generate,) = request.generate_requests()
    assert (generate.sampling.n, generate.sampling.logprobs, request.drawn, request.n) == (5, 0, 5, 2)
    assert parse_completion({"prompt": "a", "best_of": 5, "logprobs": 3}).generate_requests()[0].sampling.logprobs == 3
    assert parse_completion({"prompt": "a", "best_of": 2, "n": 2}).generate_requests()[0].sampling.logprobs is None


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 1, "n": 2},
        {"best_of": 2, "stream": True},
        {"best_of": 0},
        {"best_of": 33},
        {"best_of": "1"},
        {"best_of": 32, "prompt": ["a"] * 5},
        {"echo": 1},
    ],
)
def test_bad_completion_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_completion({"prompt": "a", **fields}).generate_requests()
    assert caught.value.param == next(iter(fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 1},
        {"best_of": 3, "n": 3},
        {"best_of": 3, "n": 3, "stream": True},
        {"suffix": ""},
        {"suffix": "", "echo": True},
        {"suffix": None, "best_of": None, "echo": None, "logprobs": None},
        {"echo": False},
    ],
)
def test_neutral_values_are_accepted(fields: dict[str, Any]) -> None:
    plain = parse_completion({"prompt": "a", "n": fields.get("n", 1)}).generate_requests()
    assert parse_completion({"prompt": "a", **fields}).generate_requests() == plain
