"""The JSON schemas of the answers of OpenAI's endpoints and of rerank, for the description of the service."""

from __future__ import annotations

from typing import Any, Final

from localllm.contract.json_schema import (
    COUNT,
    FLAG,
    MILLISECONDS,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_OR_NULL,
    UNIX_TIME,
    listing,
    one_of,
    or_null,
    record,
)

__all__ = [
    "COUNT",
    "FLAG",
    "MILLISECONDS",
    "NUMBER",
    "OBJECT",
    "SESSION",
    "TEXT",
    "TEXT_OR_NULL",
    "TIMINGS",
    "UNIX_TIME",
    "USAGE",
    "chat_chunk_schema",
    "chat_schema",
    "cohere_rerank_schema",
    "completion_chunk_schema",
    "completion_schema",
    "embeddings_schema",
    "listing",
    "one_of",
    "or_null",
    "record",
    "rerank_schema",
    "texts_rerank_schema",
]

_FINISHED: Final = one_of(
    "stop",
    "length",
    "tool_calls",
    "function_call",
    None,
    about="stop: the model ended, or a stop text; length: a limit did.",
)

USAGE: Final = record(
    {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "prompt_tokens_details": record({"cached_tokens": COUNT}),
        "completion_tokens_details": record({"reasoning_tokens": COUNT}),
    }
)
_PREDICTED: Final = {
    "predicted_n": COUNT,
    "predicted_ms": MILLISECONDS,
    "predicted_per_token_ms": NUMBER,
    "predicted_per_second": NUMBER,
}
TIMINGS: Final = record(
    {
        "cache_n": COUNT,
        "queue_ms": MILLISECONDS,
        "prompt_n": COUNT,
        "prompt_ms": MILLISECONDS,
        "prompt_per_token_ms": NUMBER,
        "prompt_per_second": NUMBER,
        **_PREDICTED,
    },
    about="Where the time went, in llama-server's words.",
)
_CHUNK_TIMINGS: Final = record(
    _PREDICTED, {name: schema for name, schema in TIMINGS["properties"].items() if name not in _PREDICTED}
)
_WARNINGS: Final = listing(TEXT, "What was asked for and could not be done quite so.")

SESSION: Final = {
    "session_id": {"type": "string", "description": "The conversation that the answer was kept in."},
    "session": record(
        {
            "id": TEXT,
            "messages": COUNT,
            "new_messages": COUNT,
            "omitted_messages": COUNT,
            "omitted_turns": COUNT,
            "summary": FLAG,
        },
        about="How much of the conversation there is, and how much of it the model was not shown.",
    ),
}
"""What an answer to a request with a session has beside its own fields; a stream's first chunk has it."""

_LOGPROB: Final = {
    "token": TEXT,
    "logprob": NUMBER,
    "bytes": listing({"type": "integer", "minimum": 0, "maximum": 255}),
}
_CHAT_LOGPROBS: Final = or_null(
    record(
        {
            "content": listing(record({**_LOGPROB, "top_logprobs": listing(record(_LOGPROB))})),
            "refusal": {"type": "null"},
        }
    )
)
_PROMPT_LOGPROBS: Final = listing(
    or_null(
        {
            "type": "object",
            "additionalProperties": record(
                {"logprob": NUMBER, "rank": {"type": ["integer", "null"]}, "decoded_token": TEXT}
            ),
        }
    ),
    "By token id, for each token of the prompt; null for the first.",
)


def _envelope(kind: str) -> dict[str, Any]:
    return {
        "id": TEXT,
        "object": {"const": kind},
        "created": UNIX_TIME,
        "model": TEXT,
        "system_fingerprint": TEXT,
    }


def chat_schema() -> dict[str, Any]:
    """Return the schema of a whole chat answer."""
    function = record({"name": TEXT, "arguments": {"type": "string", "description": "JSON; cut where the answer was."}})
    call = record({"id": TEXT, "type": {"const": "function"}, "function": function})
    thought = {"type": "string", "description": "What the model thought before."}
    message = record(
        {"role": {"const": "assistant"}, "content": TEXT_OR_NULL, "refusal": {"type": "null"}},
        {"reasoning_content": thought, "reasoning": thought, "tool_calls": listing(call), "function_call": function},
    )
    choice = record({"index": COUNT, "message": message, "logprobs": _CHAT_LOGPROBS, "finish_reason": _FINISHED})
    return record(
        {**_envelope("chat.completion"), "choices": listing(choice), "usage": USAGE, "timings": TIMINGS},
        {"prompt_logprobs": _PROMPT_LOGPROBS, "warnings": _WARNINGS, **SESSION},
        title="ChatCompletion",
    )


def chat_chunk_schema() -> dict[str, Any]:
    """Return the schema of one event of a streamed chat answer; the last is the text ``[DONE]``."""
    function = record({}, {"name": TEXT, "arguments": TEXT})
    call = record({"index": COUNT, "function": function}, {"id": TEXT, "type": {"const": "function"}})
    delta = record(
        {},
        {
            "role": {"const": "assistant"},
            "content": TEXT_OR_NULL,
            "reasoning_content": TEXT,
            "reasoning": TEXT,
            "tool_calls": listing(call),
            "function_call": function,
        },
    )
    choice = record({"index": COUNT, "delta": delta, "logprobs": _CHAT_LOGPROBS, "finish_reason": _FINISHED})
    return record(
        {**_envelope("chat.completion.chunk"), "choices": listing(choice)},
        {"usage": USAGE, "timings": _CHUNK_TIMINGS, "warnings": _WARNINGS, **SESSION},
        title="ChatCompletionChunk",
    )


def completion_schema() -> dict[str, Any]:
    """Return the schema of a whole completion."""
    return record(
        {**_envelope("text_completion"), "choices": listing(_text_choice()), "usage": USAGE, "timings": TIMINGS},
        {"warnings": _WARNINGS},
        title="Completion",
    )


def completion_chunk_schema() -> dict[str, Any]:
    """Return the schema of one event of a streamed completion; the last is the text ``[DONE]``."""
    return record(
        {**_envelope("text_completion"), "choices": listing(_text_choice())},
        {"usage": USAGE, "timings": _CHUNK_TIMINGS, "warnings": _WARNINGS},
        title="CompletionChunk",
    )


def _text_choice() -> dict[str, Any]:
    logprobs = record(
        {
            "tokens": listing(TEXT),
            "token_logprobs": listing({"type": ["number", "null"]}),
            "top_logprobs": listing({"type": ["object", "null"], "additionalProperties": NUMBER}),
            "text_offset": listing(COUNT),
        }
    )
    return record(
        {"index": COUNT, "text": TEXT, "logprobs": or_null(logprobs), "finish_reason": _FINISHED},
        {"prompt_logprobs": _PROMPT_LOGPROBS},
    )


def embeddings_schema() -> dict[str, Any]:
    """Return the schema of vectors."""
    vector = record(
        {
            "object": {"const": "embedding"},
            "index": COUNT,
            "embedding": {"anyOf": [listing(NUMBER), {"type": "string", "description": "Base64 of float32."}]},
        }
    )
    return record(
        {
            "object": {"const": "list"},
            "data": listing(vector),
            "model": TEXT,
            "usage": record({"prompt_tokens": COUNT, "total_tokens": COUNT}),
        },
        {"truncated": listing(COUNT, "The inputs that were cut.")},
        title="Embeddings",
    )


_SCORED_BY: Final = one_of("classification_head", "cosine", about="What of the model gave the scores.")
_META: Final = record(
    {
        "api_version": record({"version": TEXT}),
        "billed_units": record({"search_units": COUNT}),
        "tokens": record({"input_tokens": COUNT}),
    },
    {"warnings": listing(TEXT)},
)
_RESULT: Final = record({"index": COUNT, "relevance_score": NUMBER}, {"document": OBJECT})


def rerank_schema() -> dict[str, Any]:
    """Return the schema of what ``/v1/rerank`` answers: an object for ``documents``, an array for ``texts``."""
    datum = record(
        {"object": {"const": "rerank_result"}, "relevance_score": NUMBER, "index": COUNT}, {"document": TEXT}
    )
    ranked = record(
        {
            "id": TEXT,
            "object": {"const": "list"},
            "model": TEXT,
            "results": listing(_RESULT),
            "data": listing(datum, "The same once more, as some servers word it."),
            "usage": record({"prompt_tokens": COUNT, "total_tokens": COUNT}),
            "scored_by": _SCORED_BY,
            "meta": _META,
        }
    )
    return {"title": "Ranking", "anyOf": [ranked, texts_rerank_schema()]}


def cohere_rerank_schema() -> dict[str, Any]:
    """Return the schema of what ``/v2/rerank`` answers."""
    ranked = record({"id": TEXT, "results": listing(_RESULT), "scored_by": _SCORED_BY, "meta": _META})
    return {"title": "RankingV2", "anyOf": [ranked, texts_rerank_schema()]}


def texts_rerank_schema() -> dict[str, Any]:
    """Return the schema of what a request with ``texts`` gets."""
    return listing(record({"index": COUNT, "score": NUMBER}, {"text": TEXT}))
