"""The JSON schemas of responses, of their events, and of conversations, for the description of the service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from localllm.openai.answer_schemas import (
    COUNT,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_OR_NULL,
    UNIX_TIME,
    listing,
    or_null,
    record,
)

_COUNT_OR_NULL: Final = {"type": ["integer", "null"]}
_NUMBER_OR_NULL: Final = {"type": ["number", "null"]}
_STATUS: Final = {"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]}
_ITEM_STATUS: Final = {"enum": ["in_progress", "completed", "incomplete"]}

_TOKEN: Final = {"token": TEXT, "logprob": NUMBER}
_BYTES: Final = listing({"type": "integer", "minimum": 0, "maximum": 255})
_LOGPROBS: Final = listing(
    record({**_TOKEN, "bytes": _BYTES, "top_logprobs": listing(record({**_TOKEN, "bytes": _BYTES}))})
)
_TOLD_LOGPROBS: Final = listing(record({**_TOKEN, "top_logprobs": listing(record(_TOKEN))}))


def _kind(name: str) -> dict[str, Any]:
    return {"const": name}


_OUTPUT_TEXT: Final = record(
    {"type": _kind("output_text"), "text": TEXT, "annotations": listing(OBJECT), "logprobs": _LOGPROBS}
)
_REASONING_TEXT: Final = record({"type": _kind("reasoning_text"), "text": TEXT})
_SUMMARY_TEXT: Final = record({"type": _kind("summary_text"), "text": TEXT})
_INPUT_TEXT: Final = record({"type": _kind("input_text"), "text": TEXT})
_PART: Final = {
    "anyOf": [_INPUT_TEXT, _OUTPUT_TEXT, _REASONING_TEXT, record({"type": _kind("refusal"), "refusal": TEXT})]
}
_MESSAGE: Final = record(
    {
        "id": TEXT,
        "type": _kind("message"),
        "role": {"enum": ["user", "assistant", "system", "developer"]},
        "status": _ITEM_STATUS,
        "content": listing(_PART),
    },
    title="ResponseMessage",
)
_REASONING: Final = record(
    {
        "id": TEXT,
        "type": _kind("reasoning"),
        "status": _ITEM_STATUS,
        "summary": listing(_SUMMARY_TEXT),
        "content": listing(_REASONING_TEXT),
    },
    title="ResponseReasoning",
)
_CALL: Final = record(
    {
        "id": TEXT,
        "type": _kind("function_call"),
        "status": _ITEM_STATUS,
        "call_id": TEXT,
        "name": TEXT,
        "arguments": TEXT,
    },
    title="ResponseFunctionCall",
)
_OUTPUT: Final = record(
    {
        "id": TEXT,
        "type": _kind("function_call_output"),
        "status": _ITEM_STATUS,
        "call_id": TEXT,
        "output": {"anyOf": [TEXT, listing(_INPUT_TEXT)]},
    },
    title="ResponseFunctionCallOutput",
)
_WRITTEN: Final = {"anyOf": [_MESSAGE, _REASONING, _CALL]}
_ITEM: Final = {"anyOf": [_MESSAGE, _REASONING, _CALL, _OUTPUT]}
_USAGE: Final = record(
    {
        "input_tokens": COUNT,
        "input_tokens_details": record({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
        "output_tokens": COUNT,
        "output_tokens_details": record({"reasoning_tokens": COUNT}),
        "total_tokens": COUNT,
    },
    title="ResponseUsage",
)
_FORMAT: Final = record({"type": TEXT}, {"name": TEXT, "schema": OBJECT, "strict": FLAG, "description": TEXT})
_TOOL: Final = record(
    {"type": _kind("function"), "name": TEXT, "description": TEXT_OR_NULL, "parameters": OBJECT, "strict": FLAG}
)
_TOOL_CHOICE: Final = {"anyOf": [TEXT, record({"type": TEXT}, {"name": TEXT, "mode": TEXT, "tools": listing(OBJECT)})]}
_ERROR_EVENT: Final = record(
    {
        "type": _kind("error"),
        "sequence_number": COUNT,
        "code": TEXT,
        "message": TEXT,
        "param": TEXT_OR_NULL,
        "error": OBJECT,
    }
)


def response_schema() -> dict[str, Any]:
    """Return the schema of the response object."""
    return record(
        {
            "id": TEXT,
            "object": _kind("response"),
            "created_at": UNIX_TIME,
            "status": _STATUS,
            "background": FLAG,
            "completed_at": or_null(UNIX_TIME),
            "conversation": or_null(record({"id": TEXT})),
            "error": or_null(record({"code": TEXT, "message": TEXT})),
            "incomplete_details": or_null(record({"reason": _kind("max_output_tokens")})),
            "instructions": TEXT_OR_NULL,
            "max_output_tokens": _COUNT_OR_NULL,
            "max_tool_calls": _COUNT_OR_NULL,
            "metadata": OBJECT,
            "model": TEXT,
            "output": listing(_WRITTEN, "Thoughts, messages and calls, in the order in which they were written."),
            "parallel_tool_calls": FLAG,
            "previous_response_id": TEXT_OR_NULL,
            "prompt_cache_key": TEXT_OR_NULL,
            "reasoning": record({"effort": TEXT_OR_NULL, "summary": TEXT_OR_NULL}),
            "safety_identifier": TEXT_OR_NULL,
            "service_tier": _kind("default"),
            "temperature": _NUMBER_OR_NULL,
            "text": record({"format": _FORMAT, "verbosity": TEXT}),
            "tool_choice": _TOOL_CHOICE,
            "tools": listing(_TOOL),
            "top_logprobs": COUNT,
            "top_p": _NUMBER_OR_NULL,
            "truncation": {"enum": ["auto", "disabled"]},
            "usage": or_null(_USAGE),
            "user": TEXT_OR_NULL,
        },
        {"warnings": listing(TEXT, "What of the request was left out.")},
        title="Response",
    )


def response_event_schema() -> dict[str, Any]:
    """Return the schema of what each event of a stream holds."""
    of_item = {"output_index": COUNT}
    of_part = {"item_id": TEXT, "output_index": COUNT, "content_index": COUNT}
    of_summary = {"item_id": TEXT, "output_index": COUNT, "summary_index": COUNT}
    of_call = {"item_id": TEXT, "output_index": COUNT}
    states = ("created", "queued", "in_progress", "completed", "incomplete", "failed")
    text, thought, summary, arguments = "output_text", "reasoning_text", "reasoning_summary", "function_call_arguments"
    return {
        "anyOf": [
            _event(states, {"response": response_schema()}),
            _event(("output_item.added", "output_item.done"), {**of_item, "item": _WRITTEN}),
            _event(("content_part.added", "content_part.done"), {**of_part, "part": _PART}),
            _event((f"{text}.delta",), {**of_part, "delta": TEXT, "logprobs": _TOLD_LOGPROBS}),
            _event((f"{text}.done",), {**of_part, "text": TEXT, "logprobs": _TOLD_LOGPROBS}),
            _event((f"{thought}.delta",), {**of_part, "delta": TEXT}),
            _event((f"{thought}.done",), {**of_part, "text": TEXT}),
            _event((f"{summary}_part.added", f"{summary}_part.done"), {**of_summary, "part": _SUMMARY_TEXT}),
            _event((f"{summary}_text.delta",), {**of_summary, "delta": TEXT}),
            _event((f"{summary}_text.done",), {**of_summary, "text": TEXT}),
            _event((f"{arguments}.delta",), {**of_call, "delta": TEXT}),
            _event((f"{arguments}.done",), {**of_call, "name": TEXT, "arguments": TEXT}),
            _ERROR_EVENT,
        ]
    }


def _event(kinds: tuple[str, ...], fields: Mapping[str, Any]) -> dict[str, Any]:
    return record({"type": {"enum": [f"response.{kind}" for kind in kinds]}, "sequence_number": COUNT, **fields})


def simple_schema() -> dict[str, Any]:
    """Return the schema of the answer in the simple shape."""
    message = record({"role": _kind("assistant"), "content": TEXT})
    return record({"model": TEXT, "output": message}, title="SimpleResponse")


def input_tokens_schema() -> dict[str, Any]:
    """Return the schema of a count."""
    return record({"object": _kind("response.input_tokens"), "input_tokens": COUNT}, title="InputTokens")


def item_schema() -> dict[str, Any]:
    """Return the schema of one item."""
    return dict(_ITEM)


def item_list_schema() -> dict[str, Any]:
    """Return the schema of a page of items."""
    return record(
        {"object": _kind("list"), "data": listing(_ITEM), "first_id": TEXT, "last_id": TEXT, "has_more": FLAG},
        title="ResponseItemList",
    )


def conversation_schema() -> dict[str, Any]:
    """Return the schema of a conversation."""
    return record(
        {"id": TEXT, "object": _kind("conversation"), "created_at": UNIX_TIME, "metadata": OBJECT},
        title="Conversation",
    )


def deletion_schema(kind: str) -> Callable[[], dict[str, Any]]:
    """Return what makes the schema of the answer to a deletion."""
    return lambda: record({"id": TEXT, "object": _kind(kind), "deleted": {"const": True}})
