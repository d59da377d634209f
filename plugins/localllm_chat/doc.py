"""What the chat endpoint says of itself."""

from __future__ import annotations

from localllm import MODEL_ERRORS, EndpointDoc, ResponseDoc
from localllm.openai import ChatCompletionRequest, request_schema
from localllm.openai.answer_schemas import chat_chunk_schema, chat_schema

_WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_CITY_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "large": {"type": "boolean"}},
    "required": ["city", "large"],
    "additionalProperties": False,
}

CHAT_DOC = EndpointDoc(
    summary="Write the next message of a conversation",
    description=(
        "OpenAI's chat completions, with the sampling fields of llama-server and vLLM. `temperature` 0 is "
        "deterministic. `response_format` holds an answer to a JSON schema from its first token on. Fields that would "
        "change the answer and aren't there are refused (`unsupported_feature`), others ignored."
    ),
    tag="chat",
    request=request_schema(ChatCompletionRequest),
    examples={
        "A question": {"messages": [{"role": "user", "content": "Hello! Who are you?"}], "max_tokens": 40},
        "Streamed, with token counts": {
            "messages": [
                {"role": "system", "content": "You answer in one sentence."},
                {"role": "user", "content": "What is the capital of France?"},
            ],
            "max_tokens": 40,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        "Held to a JSON schema": {
            "messages": [{"role": "user", "content": "Describe the city of Paris."}],
            "max_tokens": 100,
            "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": _CITY_SCHEMA}},
        },
        "With a function to call": {
            "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
            "max_tokens": 100,
            "tools": [_WEATHER_TOOL],
        },
        "A conversation that the server keeps": {
            "messages": [{"role": "user", "content": "My name is Zorbani."}],
            "session_id": "new",
            "max_tokens": 40,
        },
        "Log-probabilities": {
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_tokens": 4,
            "logprobs": True,
            "top_logprobs": 2,
        },
    },
    responses={
        200: ResponseDoc(
            "The answer; with `stream` one event for each piece, the last being `[DONE]`.",
            schema=chat_schema,
            media=("application/json", "text/event-stream"),
            events=chat_chunk_schema,
        )
    },
    errors=(*MODEL_ERRORS, 507),
)
