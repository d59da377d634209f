"""Calls and results reach the model even where its template leaves them out, and whatever a client sent for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from localllm_llama_cpp.format_detection import detect_format
from localllm_llama_cpp.format_presets import PRESETS
from localllm_llama_cpp.tool_messages import describe_tools, prepare_tool_messages
from tests.plugins.llama_cpp.families import Renderer

HERMES = PRESETS["hermes"].calls


def history(arguments: object, content: object = None) -> list[dict[str, Any]]:
    call = {"id": "call_1", "type": "function", "function": {"name": "get", "arguments": arguments}}
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
    ]


def prepare(messages: list[dict[str, Any]], **kwargs: bool) -> list[dict[str, Any]]:
    shown = {"shows_calls": True, "shows_results": True, "arguments_as_text": False, **kwargs}
    return prepare_tool_messages(messages, HERMES, **shown)


def test_a_template_gets_arguments_in_the_form_that_it_shows() -> None:
    messages = history('{"city": "Bonn"}')
    (made,) = prepare(messages)[1]["tool_calls"]
    assert made["function"] == {"name": "get", "arguments": {"city": "Bonn"}}
    (made,) = prepare(messages, arguments_as_text=True)[1]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"city": "Bonn"}
    assert messages == history('{"city": "Bonn"}')


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        (None, {}),
        ({"a": 1}, {"a": 1}),
        ('{"city": "Bo', {"malformed_arguments": '{"city": "Bo'}),
        ("[1]", {"malformed_arguments": [1]}),
        ("[" * 100_000, {"malformed_arguments": "[" * 100_000}),
    ],
)
def test_arguments_of_any_shape_become_an_object(arguments: object, expected: dict[str, Any]) -> None:
    (made,) = prepare(history(arguments))[1]["tool_calls"]
    assert made["function"]["arguments"] == expected


def test_calls_and_results_are_written_out_for_a_template_that_shows_none() -> None:
    _, called, result = prepare(history('{"city": "Bonn"}', "Let me see."), shows_calls=False, shows_results=False)
    text = 'Let me see.\n\n<tool_call>\n{"name": "get", "arguments": {"city": "Bonn"}}\n</tool_call>'
    assert called == {"role": "assistant", "content": text}
    assert result == {"role": "user", "content": "<tool_response>\nRain.\n</tool_response>"}


@pytest.mark.parametrize("name", ["lfm2", "granite_3_3", "deepseek_r1_distill", "gemma_2", "qwen3", "functionary_3_2"])
def test_every_template_tells_of_calls_and_results(name: str) -> None:
    render = Renderer(name)
    found = detect_format(render.source, render)
    messages = prepare_tool_messages(
        history('{"city": "Bonn"}', ""),
        found.format.calls,
        shows_calls=found.shows_calls,
        shows_results=found.shows_results,
        arguments_as_text=found.arguments_as_text,
    )
    text = render(messages, [], {})
    assert all(word in text for word in ("Weather?", "get", "Bonn", "Rain."))


def test_tools_are_described_with_an_example_of_a_call() -> None:
    assert HERMES is not None
    tools = [{"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}]
    text = describe_tools(HERMES, tools)
    assert '<tool_call>\n{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}\n</tool_call>' in text
    assert text.endswith('{"name": "get", "parameters": {"type": "object"}}')
