"""The completions request: the four forms of a prompt, echo, best_of, logprobs."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError
from localllm.contract.generation import TextPrompt, TokenPrompt
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


def test_echo_names_the_text_before_each_answer() -> None:
    assert parse_completion({"prompt": ["a", "b"], "echo": True}).echoed() == ("a", "b")
    assert parse_completion({"prompt": ["a", "b"]}).echoed() == ("", "")
    assert parse_completion({"prompt": [1, 2]}).echoed() == ("",)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": True, "logprobs": 0}, "echo"),
        ({"echo": True, "prompt": [1, 2]}, "echo"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 3, "n": 2}, "best_of"),
    ],
)
def test_missing_features_say_so(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedFeatureError) as caught:
        parse_completion({"prompt": "a", **fields}).generate_requests()
    assert caught.value.param == param


@pytest.mark.parametrize("fields", [{"best_of": 1}, {"best_of": 3, "n": 3}, {"suffix": ""}, {"echo": False}])
def test_neutral_values_are_accepted(fields: dict[str, Any]) -> None:
    parse_completion({"prompt": "a", **fields}).generate_requests()


@pytest.mark.parametrize("fields", [{"best_of": 1, "n": 2}, {"best_of": 0}, {"best_of": "1"}, {"echo": 1}])
def test_bad_completion_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_completion({"prompt": "a", **fields}).generate_requests()
    assert caught.value.param == next(iter(fields))
