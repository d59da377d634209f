"""What MyLLM's endpoints say of themselves in the description of the service."""

from __future__ import annotations

from typing import Any, Final

from localllm import EndpointDoc, ResponseDoc

_MODEL: Final = {"type": "string", "description": "The model's name, as GET /api/models lists it."}
_STREAM: Final = {"type": "boolean", "default": True, "description": "Server-sent events, or one JSON object."}
_OPTIONS: Final[dict[str, Any]] = {
    "type": "object",
    "description": "How the answer is written. Every sampling field of POST /v1/completions may stand here, too.",
    "properties": {
        "temperature": {"type": "number", "default": 0.7, "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "default": 0.9, "minimum": 0, "maximum": 1},
        "top_k": {"type": "integer", "default": 40, "minimum": 0},
        "max_tokens": {"type": "integer", "default": 512, "minimum": 1},
        "stop": {"type": "array", "items": {"type": "string"}, "default": []},
        "repeat_penalty": {"type": "number", "default": 1.1, "minimum": 0, "maximum": 10},
    },
}
_USAGE: Final = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": {name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
}
_MESSAGE: Final = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
}
_BOTH: Final = ("application/json", "text/event-stream")
_TAG: Final = "MyLLM"


def _object(required: list[str], **properties: Any) -> dict[str, Any]:  # noqa: ANN401 - schemas
    return {"type": "object", "required": required, "properties": properties}


GENERATE: Final = EndpointDoc(
    "Go on with a text",
    'Streams by default: `{"token": …, "done": false}` for each piece, and at the end '
    '`{"done": true, "full_text": …, "token_count": …}`.',
    _TAG,
    request=_object(["model", "prompt"], model=_MODEL, prompt={"type": "string"}, stream=_STREAM, options=_OPTIONS),
    examples={
        "A short text": {
            "model": "localllm-demo",
            "prompt": "Once upon a time",
            "stream": False,
            "options": {"temperature": 0.7, "top_p": 0.9, "max_tokens": 16, "stop": ["</s>"]},
        }
    },
    responses={200: ResponseDoc("The text.", _object(["text", "usage"], text={"type": "string"}, usage=_USAGE), _BOTH)},
    errors=(400, 404, 500, 502, 503),
)

CHAT: Final = EndpointDoc(
    "Answer a conversation",
    "Without `session_id` a session is begun, and its id answered; with it the session goes on. Streams by default.",
    _TAG,
    request=_object(
        ["model", "messages"],
        model=_MODEL,
        messages={"type": "array", "minItems": 1, "items": _MESSAGE},
        session_id={"type": ["string", "null"], "default": None},
        stream=_STREAM,
        options=_OPTIONS,
    ),
    examples={
        "A question": {
            "model": "localllm-demo",
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "What is the capital of France?"},
            ],
            "session_id": None,
            "stream": False,
            "options": {"temperature": 0.7, "max_tokens": 32},
        }
    },
    responses={
        200: ResponseDoc(
            "The next message.",
            _object(
                ["message", "session_id", "usage"],
                message=_MESSAGE,
                session_id={"type": ["string", "null"]},
                session={"type": "object", "description": "How much of the session the model was shown."},
                usage=_USAGE,
            ),
            _BOTH,
        )
    },
    errors=(400, 404, 409, 500, 502, 503, 507),
)

EMBEDDINGS: Final = EndpointDoc(
    "Turn a text into a vector",
    "Any chat or embedding model will do; vectors have the length 1.",
    _TAG,
    request=_object(["model", "input"], model=_MODEL, input={"type": "string", "minLength": 1}),
    examples={"A greeting": {"model": "localllm-demo-embed", "input": "Hello, world!"}},
    responses={
        200: ResponseDoc(
            "The vector.",
            _object(
                ["embedding", "model"],
                embedding={"type": "array", "items": {"type": "number"}},
                model={"type": "string"},
            ),
        )
    },
    errors=(400, 404, 500, 502, 503),
)

MODELS: Final = EndpointDoc(
    "List the models",
    tag=_TAG,
    responses={
        200: ResponseDoc(
            "All models.",
            _object(
                ["models"],
                models={
                    "type": "array",
                    "items": _object(
                        [
                            "name",
                            "family",
                            "size_mb",
                            "quantization",
                            "context_size",
                            "template",
                            "parameters",
                            "loaded",
                        ],
                        name={"type": "string"},
                        family={"type": "string"},
                        size_mb={"type": "integer"},
                        quantization={"type": "string"},
                        context_size={"type": "integer"},
                        template={"type": "string"},
                        parameters={"type": "object", "additionalProperties": True},
                        loaded={"type": "boolean"},
                    ),
                },
            ),
        )
    },
)
