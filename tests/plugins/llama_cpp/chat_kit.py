"""Renderers of families' templates and of templates made up for a test, and histories to be rendered."""

from __future__ import annotations

import functools
import json
from typing import Any

from localllm_llama_cpp.chat_renderer import ChatRenderer, find_format
from localllm_llama_cpp.template import ChatTemplate
from tests.plugins.llama_cpp.families import TEMPLATES

Message = dict[str, Any]


def renderer_of(source: str, chat_format: str = "") -> ChatRenderer:
    """As it is made when a model with this template is loaded."""
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    return ChatRenderer(template, find_format(template, chat_format)[0])


@functools.cache
def family(name: str) -> ChatRenderer:
    return renderer_of((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))


def tool(name: str, **fields: Any) -> Message:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


def call(name: str, city: str, call_id: str = "call_abc") -> Message:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps({"city": city})}}


def system(content: str) -> Message:
    return {"role": "system", "content": content}


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str | None, *calls: Message, **fields: Any) -> Message:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **fields}


def result(content: str | None, call_id: str = "call_abc") -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


TOOLS = (tool("get_weather", description="Says how it is.", strict=True), tool("set-alarm"))

HISTORY = (
    system("Be brief, sysword."),
    user("How is it there, askword?"),
    assistant(
        None,
        call("get_weather", "Bonncity", "call_of_any_length"),
        call("set-alarm", "Ulmcity", "2"),
        reasoning_content="I must look, thoughtword.",
    ),
    result('Rainword, "heavy"', "call_of_any_length"),
    result("Sunword", "2"),
    assistant("It rains, saidword."),
    user("And now, lastword?"),
)
WORDS = ("sysword", "askword", "Bonncity", "Ulmcity", "Rainword", "Sunword", "saidword", "lastword")
