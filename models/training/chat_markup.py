"""The demo chat model's special tokens and chat template, shared by its training and its GGUF header."""

from __future__ import annotations

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

# ChatML. Content may be a text, a list of parts of which the texts count, or missing.
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}
{{- message['content'] }}
{%- elif message['content'] %}
{%- for part in message['content'] %}{%- if part['text'] %}{{- part['text'] }}{%- endif %}{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def message_opening(role: str) -> str:
    """What stands before a message's content."""
    return f"{MESSAGE_START}{role}\n"
