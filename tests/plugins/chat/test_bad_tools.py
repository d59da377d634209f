"""Hostile values inside of tools, calls and thoughts: each is taken, or answered 400 with the field as param."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import localllm_chat
from tests.plugins.hostile import VALUES, error_of, nested

BODY = {
    "messages": [{"role": "user", "content": "Hi"}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
}
PLACES: dict[str, Any] = {
    "tools": lambda value: {"tools": [value]},
    "tools[0].type": lambda value: {"tools": [{"type": value}]},
    "tools[0].function": lambda value: {"tools": [{"type": "function", "function": value}]},
    "tools[0].function.name": lambda value: {"tools": [{"type": "function", "function": {"name": value}}]},
    "tools[0].function.parameters": lambda value: {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": value}}]
    },
    "tools[0].function.strict": lambda value: {
        "tools": [{"type": "function", "function": {"name": "f", "strict": value}}]
    },
    "functions": lambda value: {"tools": [], "functions": [value]},
    "function_call": lambda value: {"function_call": {"name": value}},
    "tool_choice": lambda value: {"tool_choice": value},
    "tool_choice.type": lambda value: {"tool_choice": {"type": value}},
    "tool_choice.function": lambda value: {"tool_choice": {"type": "function", "function": value}},
    "tool_choice.tools": lambda value: {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": value}},
    "thinking": lambda value: {"thinking": {"type": value}},
    "thinking.budget_tokens": lambda value: {"thinking": {"budget_tokens": value}},
    "reasoning": lambda value: {"reasoning": {"max_tokens": value}},
    "chat_template_kwargs": lambda value: {"chat_template_kwargs": {"enable_thinking": value}},
    **{
        f"messages[0].{name}": lambda value, name=name: {"messages": [{"role": "assistant", name: value}]}
        for name in ("role", "content", "name", "tool_calls", "function_call", "tool_call_id", "reasoning_content")
    },
    "messages[0].tool_calls[0]": lambda value: {"messages": [{"role": "assistant", "tool_calls": [value]}]},
    "messages[0].tool_calls[0].id": lambda value: {
        "messages": [{"role": "assistant", "tool_calls": [{"id": value, "function": {"name": "f"}}]}]
    },
    "messages[0].tool_calls[0].function.arguments": lambda value: {
        "messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": value}}]}]
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_in_tools_calls_and_thoughts_with_every_kind_of_value(make_server: Any, place: str) -> None:
    server = make_server(localllm_chat)
    root = place.split("[")[0].split(".")[0]
    refused = 0

    async def walk() -> None:
        nonlocal refused
        for value in (*VALUES, nested(50)):
            answer = await server.request("/v1/chat/completions", {**BODY, **PLACES[place](value)})
            if answer.status != 200:
                param = error_of(answer)["param"]
                assert param is not None, value
                assert param.split("[")[0].split(".")[0] == root, (value, param)
                refused += 1

    asyncio.run(walk())
    assert refused >= 5
