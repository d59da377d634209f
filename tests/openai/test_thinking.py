"""The many words for thoughts: each service's own reach the template, the budget and the answer's wording."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.errors import InvalidRequestError, LocalLLMError
from localllm.contract.generation import ChatPrompt
from localllm.openai import ChatCompletionRequest, parse_chat

ON = {"enable_thinking": True, "thinking": True}
OFF = {"enable_thinking": False, "thinking": False}
BUDGETS = (
    *("thinking_budget", "thinking_budget_tokens", "thinking_token_budget"),
    *("reasoning_budget", "reasoning_budget_tokens"),
)


def parse(**fields: Any) -> ChatCompletionRequest:
    return parse_chat({"messages": [{"role": "user", "content": "Hello"}], **fields})


def prompt(**fields: Any) -> ChatPrompt:
    found = parse(**fields).generate_request().prompt
    assert isinstance(found, ChatPrompt)
    return found


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({}, {}),
        ({"reasoning_effort": "none"}, OFF),
        ({"reasoning_effort": "low"}, {**ON, "reasoning_effort": "low"}),
        ({"reasoning_effort": ""}, {}),
        ({"enable_thinking": True}, ON),
        ({"enable_thinking": False}, OFF),
        ({"enable_thinking": False, "reasoning_effort": "high"}, {**OFF, "reasoning_effort": "high"}),
        ({"enable_thinking": True, "reasoning_effort": "none"}, ON),
        ({"chat_template_kwargs": {"enable_thinking": False}}, OFF),
        ({"chat_template_kwargs": {"thinking": True}}, ON),
        ({"chat_template_kwargs": {"thinking": "deep"}}, {"thinking": "deep"}),
        ({"chat_template_kwargs": {"thinking": "deep"}, "enable_thinking": True}, {**ON, "thinking": "deep"}),
        ({"chat_template_kwargs": {"enable_thinking": None}, "enable_thinking": True}, ON),
        ({"chat_template_kwargs": {"enable_thinking": False}, "enable_thinking": True}, OFF),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"},
            {**OFF, "reasoning_effort": "low"},
        ),
        (
            {"chat_template_kwargs": {"reasoning_effort": "high", "style": 1}, "reasoning_effort": "low"},
            {**ON, "reasoning_effort": "high", "style": 1},
        ),
        ({"reasoning": {}}, {}),
        ({"reasoning": {"effort": "high"}}, {**ON, "reasoning_effort": "high"}),
        ({"reasoning": {"effort": "none"}}, OFF),
        ({"reasoning": {"effort": "high"}, "reasoning_effort": "low"}, {**ON, "reasoning_effort": "low"}),
        ({"reasoning": {"enabled": False}}, OFF),
        ({"reasoning": {"enabled": True, "effort": None, "summary": "auto"}}, ON),
        ({"reasoning": {"max_tokens": 100}}, ON),
        ({"reasoning": {"max_tokens": 0}}, OFF),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, ON),
        ({"thinking": {"type": "disabled"}}, OFF),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"thinking": {}}, {}),
        ({"thinking_budget": 0}, OFF),
        ({"thinking_budget": 0, "reasoning_effort": "high"}, {**OFF, "reasoning_effort": "high"}),
        ({"thinking_budget": 0, "enable_thinking": True}, ON),
        ({"thinking_budget": 9}, {}),
        ({"thinking_budget": -1}, {}),
    ],
)
def test_what_the_template_is_told(fields: dict[str, Any], kwargs: dict[str, Any]) -> None:
    assert prompt(**fields).template_kwargs == kwargs


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_has_many_names(name: str) -> None:
    assert prompt(**{name: 64}).thought_budget == 64
    assert prompt(**{name: 0}) == prompt(thinking_budget=0)
    assert prompt(**{name: 0}).thought_budget == 0
    assert prompt(**{name: -1}) == prompt(**{name: None}) == prompt()
    assert prompt(**{name: 64}, thinking={"budget_tokens": 9}).thought_budget == 64


@pytest.mark.parametrize("value", [False, "9", -2])
def test_what_stands_under_a_second_name_must_be_valid_too(value: object) -> None:
    assert prompt(**{BUDGETS[0]: 64, BUDGETS[1]: 9}).thought_budget == 64
    with pytest.raises(InvalidRequestError) as caught:
        prompt(**{BUDGETS[0]: 0, BUDGETS[1]: value, BUDGETS[2]: 1})
    assert caught.value.param == BUDGETS[1]


def test_budgets_in_objects() -> None:
    assert prompt(thinking={"type": "enabled", "budget_tokens": 9}, reasoning={"max_tokens": 8}).thought_budget == 9
    assert prompt(reasoning={"max_tokens": 8}).thought_budget == 8
    assert prompt(reasoning={"max_tokens": -1}).thought_budget is None


def test_thoughts_can_be_hidden() -> None:
    assert parse().shows_reasoning
    assert parse(include_reasoning=True, reasoning={"exclude": True}).shows_reasoning
    assert not parse(include_reasoning=False).shows_reasoning
    assert not parse(reasoning={"exclude": True}).shows_reasoning
    assert prompt(include_reasoning=False) == prompt()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": 5}, "reasoning_effort"),
        ({"reasoning_effort": "x" * 65}, "reasoning_effort"),
        ({"enable_thinking": "false"}, "enable_thinking"),
        ({"enable_thinking": 0}, "enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": "false"}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": 0}}, "chat_template_kwargs.enable_thinking"),
        ({"include_reasoning": "no"}, "include_reasoning"),
        ({"reasoning": "low"}, "reasoning"),
        ({"reasoning": True}, "reasoning"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"reasoning": {"max_tokens": -2}}, "reasoning.max_tokens"),
        ({"reasoning": {"enabled": 1}}, "reasoning.enabled"),
        ({"reasoning": {"exclude": "yes"}}, "reasoning.exclude"),
        ({"thinking": True}, "thinking"),
        ({"thinking": {"type": "on"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": "many"}}, "thinking.budget_tokens"),
        *(({name: value}, name) for name in BUDGETS for value in (-2, 1.5, True, "9", 2**31)),
    ],
)
def test_bad_fields_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(LocalLLMError) as caught:
        prompt(**fields)
    assert type(caught.value) is InvalidRequestError
    assert caught.value.param == param
