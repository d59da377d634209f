"""The public JSON of OpenAI's endpoints: request models and response builders, shared by the endpoint plugins."""

from __future__ import annotations

from localllm.openai.answers import response_chunks, whole_response
from localllm.openai.chat import ChatCompletionRequest, parse_chat
from localllm.openai.chat_shape import ChatShape
from localllm.openai.completion_shape import CompletionShape
from localllm.openai.completions import CompletionRequest, parse_completion
from localllm.openai.fan_in import merge_generations
from localllm.openai.reply import Reply, new_reply

__all__ = [
    "ChatCompletionRequest",
    "ChatShape",
    "CompletionRequest",
    "CompletionShape",
    "Reply",
    "merge_generations",
    "new_reply",
    "parse_chat",
    "parse_completion",
    "response_chunks",
    "whole_response",
]
