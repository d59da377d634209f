"""The demo chat model's special tokens, messages and chat template, shared by its training and its GGUF header."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

END_OF_TEXT = "<|endoftext|>"
MESSAGE_START = "<|im_start|>"
MESSAGE_END = "<|im_end|>"
FIM_PREFIX = "<|fim_prefix|>"
FIM_MIDDLE = "<|fim_middle|>"
FIM_SUFFIX = "<|fim_suffix|>"

# Control tokens are never part of a user's text; tags are, and llama.cpp shows them in what it writes.
CONTROL_TOKENS = (END_OF_TEXT, MESSAGE_START, MESSAGE_END, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX)
TAG_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
SPECIAL_TOKENS = CONTROL_TOKENS + TAG_TOKENS

# Stands at the end of the system message when the model shall think; it then opens the thought by itself.
THINK_SIGN = "/think"
# What the answer is opened with when the model shall not think, said expressly.
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"

# ChatML with Hermes tool calls. Content may be a text, a list of parts of which the texts count, or missing.
# A tool is shown as the call that it wants: name and required parameters with their types, without descriptions, since
# 2,048 tokens of 1.6 letters are soon full. Thoughts are kept only while the last question is being worked on.
CHAT_TEMPLATE = """\
{%- macro text(content) %}
{%- if content is string %}
{{- content }}
{%- elif content %}
{%- for part in content %}{%- if part['text'] %}{{- part['text'] }}{%- endif %}{%- endfor %}
{%- endif %}
{%- endmacro %}
{%- macro signature(function) %}
{%- set schema = function['parameters'] or {} %}
{%- set properties = schema['properties'] or {} %}
{{- '{"name": ' + function['name'] | tojson + ', "arguments": {' }}
{%- for key in schema['required'] or properties %}
{%- set type = (properties[key] or {})['type'] %}
{{- (', ' if not loop.first else '') + key | tojson + ': ' + (type if type is string else 'any') | tojson }}
{%- endfor %}
{{- '}}' }}
{%- endmacro %}
{%- set found = namespace(last_question=-1) %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{%- set found.last_question = loop.index0 %}{%- endif %}
{%- endfor %}
{%- set has_system = messages and messages[0]['role'] == 'system' %}
{%- set thinks = enable_thinking is defined and enable_thinking %}
{%- if has_system or tools or thinks %}
{{- '<|im_start|>system\\n' }}
{%- set opening = text(messages[0]['content']) if has_system else '' %}
{{- opening }}
{%- if tools %}
{{- ('\\n\\n' if opening else '') + '<tools>\\n' }}
{%- for tool in tools %}{{- signature(tool['function'] or tool) + '\\n' }}{%- endfor %}
{{- '</tools>' }}
{%- endif %}
{%- if thinks %}{{- ('\\n\\n' if opening or tools else '') + '/think' }}{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- set content = text(message['content']) %}
{%- if message['role'] == 'tool' %}
{%- if loop.first or loop.previtem['role'] != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
{%- if loop.last or loop.nextitem['role'] != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- elif message['role'] == 'assistant' %}
{%- set thought = message['reasoning_content'] or '' %}
{%- if '</think>' in content %}
{%- set thought = thought or content.split('</think>')[0].split('<think>')[-1] %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>assistant\\n' }}
{%- if thought and loop.index0 > found.last_question %}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- content }}
{%- for call in message['tool_calls'] or [] %}
{%- set function = call['function'] or call %}
{%- set arguments = function['arguments'] %}
{{- ('\\n' if content or not loop.first else '') + '<tool_call>\\n{"name": ' + function['name'] | tojson }}
{{- ', "arguments": ' + (arguments if arguments is string else (arguments or {}) | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif not loop.first or not has_system %}
{{- '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""


@dataclass(frozen=True)
class Tool:
    """A function that the model may call: its name, and its parameters as pairs of name and JSON type."""

    name: str
    parameters: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ToolCall:
    """A function's name, and its arguments as pairs of name and value."""

    name: str
    arguments: tuple[tuple[str, str | int], ...]


@dataclass(frozen=True)
class Message:
    """One message of a chat; the role is system, user, assistant or tool."""

    role: str
    content: str
    calls: tuple[ToolCall, ...] = ()
    thought: str = ""


@dataclass(frozen=True)
class Setting:
    """What a request asks for besides its messages; thinking is on, off, or (None) not spoken of."""

    tools: tuple[Tool, ...] = ()
    thinking: bool | None = None


PLAIN_SETTING = Setting()


def message_opening(role: str) -> str:
    """What stands before a message's content."""
    return f"{MESSAGE_START}{role}\n"


def _named(name: str, arguments: Sequence[tuple[str, object]]) -> str:
    return json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)


def _thought_text(thought: str) -> str:
    return f"<think>\n{thought}\n</think>\n\n" if thought else ""


def assistant_text(message: Message, with_thought: bool = True) -> str:
    """What the assistant writes: a thought, if it shall stand, text and tool calls."""
    calls = [f"<tool_call>\n{_named(call.name, call.arguments)}\n</tool_call>" for call in message.calls]
    said = [message.content] if message.content or not calls else []
    return _thought_text(message.thought if with_thought else "") + "\n".join(said + calls)


def system_text(content: str, setting: Setting) -> str:
    """The system message's content with what a request's setting puts into it."""
    tools = "\n".join(_named(tool.name, tool.parameters) for tool in setting.tools)
    parts = (content, f"<tools>\n{tools}\n</tools>" if tools else "", THINK_SIGN if setting.thinking else "")
    return "\n\n".join(part for part in parts if part)


def last_question(messages: Sequence[Message]) -> int:
    """The index of the last message of the user, -1 for none."""
    return max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)


def rendered(messages: Sequence[Message], setting: Setting) -> Iterator[tuple[str, str]]:
    """What the template makes of each message, in two parts: what stands before it, and what is its own."""
    asked = last_question(messages)
    if (not messages or messages[0].role != "system") and (setting.tools or setting.thinking):
        yield message_opening("system"), f"{system_text('', setting)}{MESSAGE_END}\n"
    for index, message in enumerate(messages):
        if message.role == "tool":
            first = index == 0 or messages[index - 1].role != "tool"
            last = index + 1 == len(messages) or messages[index + 1].role != "tool"
            opening = f"{MESSAGE_START}user\n" if first else "\n"
            yield opening, f"<tool_response>\n{message.content}\n</tool_response>{f'{MESSAGE_END}{chr(10)}' * last}"
            continue
        own = message.content
        if message.role == "assistant":
            own = assistant_text(message, index > asked)
        elif message.role == "system" and index == 0:
            own = system_text(own, setting)
        yield message_opening(message.role), f"{own}{MESSAGE_END}\n"


def prompt_text(messages: Sequence[Message], setting: Setting = PLAIN_SETTING) -> str:
    """The whole prompt, as the template renders it, up to where the assistant goes on."""
    text = "".join(opening + own for opening, own in rendered(messages, setting))
    return text + message_opening("assistant") + (EMPTY_THOUGHT if setting.thinking is False else "")
