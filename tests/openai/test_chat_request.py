"""The chat request: messages, logprobs, template arguments."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.errors import InvalidRequestError, LocalLLMError, UnsupportedFeatureError
from localllm.contract.generation import ChatPrompt, GenerateRequest
from localllm.openai import parse_chat


def parse(messages: Any, **fields: Any) -> GenerateRequest:
    return parse_chat({"messages": messages, **fields}).generate_request()


def plain(messages: Any, **fields: Any) -> list[tuple[str, str]]:
    prompt = parse(messages, **fields).prompt
    assert isinstance(prompt, ChatPrompt)
    return [(message["role"], message["content"]) for message in prompt.messages]


HELLO = [{"role": "user", "content": "Hello"}]


def test_roles_and_texts_reach_the_engine() -> None:
    roles = ("system", "developer", "user", "assistant", "user")
    messages = [{"role": role, "content": f"{role} says"} for role in roles]
    assert plain(messages) == [(role, f"{role} says") for role in roles]


def test_text_parts_are_joined() -> None:
    parts = [
        {"type": "text", "text": "one "},
        {"type": "refusal", "refusal": "two "},
        {"type": "text", "text": "three"},
    ]
    assert plain([{"role": "assistant", "content": parts}, *HELLO])[0] == ("assistant", "one two three")


def test_assistant_without_content_is_empty() -> None:
    history = [{"role": "assistant", "content": None}, {"role": "assistant"}, {"role": "assistant", "content": []}]
    assert plain([*history, *HELLO])[:3] == [("assistant", "")] * 3


def test_harmless_fields_of_a_message_are_ignored() -> None:
    extra = {"name": "", "refusal": None, "tool_calls": [], "function_call": None, "audio": None, "x": [1]}
    prompt = parse([{**HELLO[0], **extra}]).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages == (HELLO[0],)


def test_harmless_unknown_fields_are_ignored() -> None:
    extra = {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "parallel_tool_calls": True}
    assert parse(HELLO, **extra, made_up=[1, 2]) == parse(HELLO)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (5, "messages"),
        ("Hello", "messages"),
        ({}, "messages"),
        ([], "messages"),
        (HELLO * 2049, "messages"),
        ([5], "messages[0]"),
        ([None], "messages[0]"),
        ([HELLO], "messages[0]"),
        ([{}], "messages[0].role"),
        ([{"role": None, "content": "x"}], "messages[0].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": 5, "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([*HELLO, {"role": "system", "content": None}], "messages[1].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": {}}], "messages[0].content"),
        ([{"role": "user", "content": True}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "poem", "text": "x"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": {}, "text": "x"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": [{"type": "refusal", "text": "x"}]}], "messages[0].content[0].refusal"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}] * 65}], "messages[0].content"),
    ],
)
def test_bad_messages_are_refused_by_path(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(messages)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param} ")


def test_missing_messages_are_named() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_chat({})
    assert (caught.value.param, caught.value.message) == ("messages", "messages is required.")


def test_only_the_first_bad_message_is_reported() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse([5] * 100_000)
    assert caught.value.detail == {}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]}, "messages[0].tool_calls[0].type"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "data:"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "messages[0].content[0]"),
    ],
)
def test_messages_of_missing_features_say_so(message: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedFeatureError) as caught:
        parse([message, *HELLO])
    assert caught.value.param == param


def test_logprobs() -> None:
    assert parse(HELLO).sampling.logprobs is None
    assert parse(HELLO, logprobs=False).sampling.logprobs is None
    assert parse(HELLO, logprobs=True).sampling.logprobs == 0
    assert parse(HELLO, logprobs=True, top_logprobs=20).sampling.logprobs == 20
    assert parse(HELLO, logprobs=False, top_logprobs=0).sampling.logprobs is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"top_logprobs": 5, "logprobs": False}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": -1, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": True, "logprobs": True}, "top_logprobs"),
        ({"logprobs": 5}, "logprobs"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"tools": None, "tokenize": True}}, "chat_template_kwargs"),
    ],
)
def test_bad_chat_fields_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(LocalLLMError) as caught:
        parse(HELLO, **fields)
    assert type(caught.value) is InvalidRequestError
    assert caught.value.param == param


def test_template_arguments_reach_the_template() -> None:
    prompt = parse(HELLO, chat_template_kwargs={"style": "terse", "depth": [1], "nothing": None}).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.template_kwargs == {"style": "terse", "depth": [1]}


def test_prompt_cache_can_be_left_out() -> None:
    assert parse(HELLO).cache_prompt
    assert not parse(HELLO, cache_prompt=False).cache_prompt


DRAFT = [*HELLO, {"role": "assistant", "content": "Once upon"}]


def test_last_message_can_be_continued() -> None:
    for fields in ({}, {"add_generation_prompt": False}, {"add_generation_prompt": None}):
        prompt = parse(DRAFT, continue_final_message=True, **fields).prompt
        assert isinstance(prompt, ChatPrompt)
        assert prompt.continue_final_message
    for fields in ({}, {"continue_final_message": False}, {"continue_final_message": None}):
        prompt = parse(DRAFT, add_generation_prompt=True, **fields).prompt
        assert isinstance(prompt, ChatPrompt)
        assert not prompt.continue_final_message


@pytest.mark.parametrize(
    ("messages", "fields", "error"),
    [
        (DRAFT, {"continue_final_message": True, "add_generation_prompt": True}, InvalidRequestError),
        (HELLO, {"continue_final_message": True}, InvalidRequestError),
        ([*HELLO, {"role": "assistant"}], {"continue_final_message": True}, InvalidRequestError),
        (
            [*HELLO, {"role": "assistant", "content": "Let me", "tool_calls": [{"function": {"name": "f"}}]}],
            {"continue_final_message": True},
            InvalidRequestError,
        ),
        (DRAFT, {"continue_final_message": "yes"}, InvalidRequestError),
        (DRAFT, {"add_generation_prompt": False}, UnsupportedFeatureError),
        (DRAFT, {"add_generation_prompt": 0}, InvalidRequestError),
    ],
)
def test_bad_end_of_a_prompt_is_refused(messages: Any, fields: dict[str, Any], error: type[LocalLLMError]) -> None:
    with pytest.raises(LocalLLMError) as caught:
        parse(messages, **fields)
    assert type(caught.value) is error
    assert caught.value.param == next(iter(fields))
