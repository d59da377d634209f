"""What the completions endpoint says of itself."""

from __future__ import annotations

from localllm import MODEL_ERRORS, EndpointDoc, ResponseDoc
from localllm.openai import CompletionRequest, request_schema
from localllm.openai.answer_schemas import completion_chunk_schema, completion_schema

COMPLETIONS_DOC = EndpointDoc(
    summary="Go on with a text",
    description=(
        "OpenAI's completions, for raw text or token ids: no chat template is applied. `echo` with `max_tokens` 0 and "
        "`logprobs` scores a text."
    ),
    tag="completions",
    request=request_schema(CompletionRequest),
    examples={
        "A beginning": {"prompt": "Once upon a time", "max_tokens": 24},
        "Two texts, streamed": {"prompt": ["One, two,", "Monday, Tuesday,"], "max_tokens": 8, "stream": True},
        "The score of a text": {"prompt": "The sky is blue.", "max_tokens": 0, "echo": True, "logprobs": 1},
        "Reproducible": {"prompt": "Hello", "max_tokens": 8, "temperature": 0.8, "seed": 7, "stop": ["\n"]},
    },
    responses={
        200: ResponseDoc(
            "The answers, those to the first prompt first; with `stream` one event for each piece, the last being "
            "`[DONE]`.",
            schema=completion_schema,
            media=("application/json", "text/event-stream"),
            events=completion_chunk_schema,
        )
    },
    errors=MODEL_ERRORS,
)
