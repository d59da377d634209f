"""The JSON schemas of requests to ``/v1/responses`` and ``/v1/conversations``, for the description of the service."""

from __future__ import annotations

from typing import Any, Final

from localllm.openai.answer_schemas import OBJECT, TEXT, TEXT_OR_NULL, listing, record
from localllm.openai.request_schema import request_schema
from localllm.openai.responses.conversations import ConversationBody, ConversationChange, MoreItems
from localllm.openai.responses.items import MAX_ITEMS
from localllm.openai.responses.request import ResponseRequest, SimpleRequest

_PARTS: Final = {
    "type": "array",
    "maxItems": 256,
    "items": record({"type": {"enum": ["input_text", "output_text", "refusal"]}}, {"text": TEXT, "refusal": TEXT}),
}
_TEXT_OR_PARTS: Final = {"anyOf": [TEXT, _PARTS]}
_INPUT_ITEMS: Final[dict[str, Any]] = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_ITEMS,
    "items": {
        "anyOf": [
            record(
                {"role": {"enum": ["user", "assistant", "system", "developer"]}, "content": _TEXT_OR_PARTS},
                {"type": {"const": "message"}},
            ),
            record(
                {"type": {"const": "function_call"}, "call_id": TEXT, "name": {"type": "string", "minLength": 1}},
                {"arguments": TEXT},
            ),
            record({"type": {"const": "function_call_output"}, "call_id": TEXT, "output": _TEXT_OR_PARTS}),
            record({"type": {"const": "reasoning"}}, {"summary": listing(OBJECT), "content": listing(OBJECT)}),
            record({"type": {"const": "item_reference"}, "id": TEXT}),
        ]
    },
}
_FUNCTION: Final = record(
    {"type": {"const": "function"}, "name": {"type": "string", "pattern": "^[A-Za-z0-9_.:/-]{1,128}$"}},
    {
        "description": TEXT_OR_NULL,
        "parameters": {"type": ["object", "null"], "description": "JSON schema of the arguments, an object."},
        "strict": {"type": ["boolean", "null"]},
    },
)
_FORMAT: Final = record(
    {"type": {"enum": ["text", "json_object", "json_schema"]}},
    {"name": TEXT, "schema": OBJECT, "strict": {"type": ["boolean", "null"]}, "description": TEXT_OR_NULL},
)

_HELP: Final = {
    "input": "A text, or the items of the conversation, oldest first; what is kept need not be sent again. "
    "Required unless previous_response_id or conversation says what to go on from.",
    "instructions": "What goes before the conversation as a system message. It is not carried over to later responses.",
    "store": "Keep the response, to be fetched and gone on from; absent: as the configuration says.",
    "previous_response_id": "The kept response that this one goes on from.",
    "conversation": "The conversation, by its id, that this response goes on with and is added to.",
    "background": "Answer at once; the response is written meanwhile, and fetched by its id.",
    "include": "`message.output_text.logprobs` adds log-probabilities; others are ignored.",
    "metadata": "The caller's own: 16 texts at most.",
    "truncation": "auto: leave out the oldest messages of a conversation that is too long; disabled: refuse it.",
    "max_output_tokens": "Most tokens to write, thoughts included; -1: until the model stops.",
    "max_tool_calls": "Counts built-in tools only, of which there are none.",
    "safety_identifier": "Ignored, but repeated.",
    "prompt_cache_key": "Ignored, but repeated: prompts that begin alike share what was computed by themselves.",
    "service_tier": "Ignored.",
    "top_logprobs": "How many alternatives to each token.",
}

conversation_request_schema: Final = request_schema(
    ConversationBody, help_texts=_HELP, extra={"items": {"anyOf": [_INPUT_ITEMS, {"type": "null"}]}}
)
change_request_schema: Final = request_schema(ConversationChange, help_texts=_HELP)
items_request_schema: Final = request_schema(MoreItems, extra={"items": _INPUT_ITEMS})


def simple_request_schema() -> dict[str, Any]:
    """Return the schema of the body of the simple shape, which has no streams."""
    schema = request_schema(SimpleRequest, help_texts={**_HELP, "input": "What the user says."})()
    for name in ("stream", "stream_options"):
        del schema["properties"][name]
    del schema["$defs"]["StreamOptions"]
    return schema


def response_request_schema() -> dict[str, Any]:
    """Return the schema of the body of ``POST /v1/responses``."""
    schema = request_schema(ResponseRequest, help_texts=_HELP, extra=_hand_read())()
    fields = schema["properties"]
    fields["max_output_tokens"], fields["max_tokens"] = (
        {**fields["max_tokens"], "description": _HELP["max_output_tokens"]},
        {**fields["max_tokens"], "description": "Another name of `max_output_tokens`."},
    )
    return schema


def _hand_read() -> dict[str, Any]:
    identity = {"type": "string", "minLength": 1, "maxLength": 512}
    choice = record({"type": TEXT}, {"name": TEXT, "mode": {"enum": ["auto", "required"]}, "tools": listing(OBJECT)})
    return {
        "input": {
            "description": _HELP["input"],
            "anyOf": [TEXT, {**_INPUT_ITEMS, "minItems": 0}, {"type": "null"}],
        },
        "text": {
            "description": "What the answer must match.",
            "anyOf": [
                record({}, {"format": _FORMAT, "verbosity": {"enum": ["low", "medium", "high"]}}),
                {"type": "null"},
            ],
        },
        "tools": {
            "description": "Functions that the model may call. Tools of other types are left out, with a warning.",
            "anyOf": [{"type": "array", "maxItems": 512, "items": _FUNCTION}, {"type": "null"}],
        },
        "tool_choice": {
            "description": "Whether a function may or must be called, and which.",
            "anyOf": [{"enum": ["none", "auto", "required"]}, choice, {"type": "null"}],
        },
        "conversation": {
            "description": _HELP["conversation"],
            "anyOf": [identity, record({"id": identity}), {"type": "null"}],
        },
    }
