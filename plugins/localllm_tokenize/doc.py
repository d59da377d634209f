"""What the endpoints about tokens say of themselves."""

from __future__ import annotations

from typing import Any

from localllm import MODEL_ERRORS, EndpointDoc, ResponseDoc
from localllm.openai import ChatCompletionRequest, request_schema
from localllm.openai.answer_schemas import COUNT, TEXT, listing, record

from .bodies import DetokenizeBody, TokenizeBody

_TAG = "tokens"
_MESSAGES = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "Hello!"}]

_HELP = {
    "content": "The text, as llama.cpp's server names it.",
    "input": "Another name of `prompt`.",
    "add_special": "Put the model's first token before the text. Absent: not before `content`, but before the others.",
    "add_special_tokens": "Another name of `add_special`.",
    "parse_special": "Read the names of control tokens in the text as these tokens.",
    "with_pieces": "Tell each token's spelling with it.",
    "return_token_strs": "Tell the tokens' spellings in a list of their own.",
    "prompt": "The text, as vLLM names it.",
    "tokens": "Token ids.",
}


def _tokenize_request() -> dict[str, Any]:
    """Return the schema of a body with one text, or with all that a chat may have."""
    chat = request_schema(ChatCompletionRequest)()
    text = request_schema(TokenizeBody, help_texts=_HELP)()
    optional = {**chat, "properties": {**chat["properties"], **text["properties"]}, "title": "TokenizeRequest"}
    return {name: value for name, value in optional.items() if name != "required"}


def _tokens() -> dict[str, Any]:
    piece = {"anyOf": [TEXT, listing({"type": "integer", "minimum": 0, "maximum": 255}, "Bytes that are no UTF-8.")]}
    token = {"anyOf": [COUNT, record({"id": COUNT, "piece": piece})]}
    return record(
        {"tokens": listing(token), "count": COUNT, "max_model_len": COUNT},
        {"token_strs": listing(TEXT)},
        title="Tokens",
    )


TOKENIZE_DOC = EndpointDoc(
    summary="The tokens of a text, or of a conversation",
    description="Of `content`, `prompt`, `input` and `messages` one; the words are llama.cpp's server's and vLLM's.",
    tag=_TAG,
    request=_tokenize_request,
    examples={
        "A text": {"content": "Hello world", "with_pieces": True},
        "A text, as vLLM's clients ask": {"prompt": "Hello world", "return_token_strs": True},
        "A conversation": {"messages": _MESSAGES},
    },
    responses={200: ResponseDoc("The tokens.", schema=_tokens)},
    errors=MODEL_ERRORS,
)

DETOKENIZE_DOC = EndpointDoc(
    summary="The text that tokens spell",
    tag=_TAG,
    request=request_schema(DetokenizeBody, help_texts=_HELP),
    examples={"Some tokens": {"tokens": [300, 301, 302]}},
    responses={
        200: ResponseDoc("The text, twice.", schema=record({"content": TEXT, "prompt": TEXT}, title="Detokenized"))
    },
    errors=MODEL_ERRORS,
)

APPLY_TEMPLATE_DOC = EndpointDoc(
    summary="The prompt that a conversation makes",
    description="What the model is shown when the same body is sent to `/v1/chat/completions`.",
    tag=_TAG,
    request=request_schema(ChatCompletionRequest),
    examples={"A conversation": {"messages": _MESSAGES}},
    responses={200: ResponseDoc("The prompt.", schema=record({"prompt": TEXT}, title="Rendered"))},
    errors=MODEL_ERRORS,
)

INPUT_TOKENS_DOC = EndpointDoc(
    summary="How many tokens a conversation has",
    description="Those of the prompt that the same body makes at `/v1/chat/completions`.",
    tag=_TAG,
    request=request_schema(ChatCompletionRequest),
    examples={"A conversation": {"messages": _MESSAGES}},
    responses={
        200: ResponseDoc(
            "The number.",
            schema=record({"object": {"const": "response.input_tokens"}, "input_tokens": COUNT}, title="InputTokens"),
        )
    },
    errors=MODEL_ERRORS,
)
