"""The public JSON of OpenAI's endpoints, and of rerank beside them: request models and response builders."""

from __future__ import annotations

from localllm.openai.answers import response_chunks, whole_response
from localllm.openai.best_of import best_answers
from localllm.openai.chat import ChatCompletionRequest, parse_chat
from localllm.openai.chat_shape import ChatShape, ReasoningField
from localllm.openai.completion_shape import CompletionShape
from localllm.openai.completions import CompletionRequest, parse_completion
from localllm.openai.embeddings import EmbeddingRequest, embedding_pieces, parse_embedding
from localllm.openai.fan_in import merge_generations
from localllm.openai.model_rules import field_names, fill_defaults
from localllm.openai.reply import Reply, body_pieces, new_reply
from localllm.openai.request_schema import request_schema
from localllm.openai.rerank import RerankCall, RerankRequest, TextsRerankRequest, parse_rerank
from localllm.openai.rerank_answer import ScoredBy, Scores, rerank_pieces
from localllm.openai.sessions import (
    MAX_TITLE_CHARS,
    NewSessionRequest,
    SessionChangeRequest,
    parse_new_session,
    parse_session_change,
    parse_session_message,
)

__all__ = [
    "MAX_TITLE_CHARS",
    "ChatCompletionRequest",
    "ChatShape",
    "CompletionRequest",
    "CompletionShape",
    "EmbeddingRequest",
    "NewSessionRequest",
    "ReasoningField",
    "Reply",
    "RerankCall",
    "RerankRequest",
    "ScoredBy",
    "Scores",
    "SessionChangeRequest",
    "TextsRerankRequest",
    "best_answers",
    "body_pieces",
    "embedding_pieces",
    "field_names",
    "fill_defaults",
    "merge_generations",
    "new_reply",
    "parse_chat",
    "parse_completion",
    "parse_embedding",
    "parse_new_session",
    "parse_rerank",
    "parse_session_change",
    "parse_session_message",
    "request_schema",
    "rerank_pieces",
    "response_chunks",
    "whole_response",
]
