"""What the embeddings endpoint says of itself."""

from __future__ import annotations

from localllm import MODEL_ERRORS, EndpointDoc, ResponseDoc
from localllm.openai import EmbeddingRequest, request_schema
from localllm.openai.answer_schemas import embeddings_schema

EMBEDDINGS_DOC = EndpointDoc(
    summary="Turn texts into vectors",
    description="OpenAI's embeddings: a vector for each text, in their order, of length 1 unless `normalize` is false.",
    tag="embeddings and rerank",
    request=request_schema(EmbeddingRequest),
    examples={
        "A text": {"input": "The food was delicious."},
        "Several, in base64": {"input": ["a cat", "a dog"], "encoding_format": "base64"},
    },
    responses={200: ResponseDoc("The vectors.", schema=embeddings_schema)},
    errors=MODEL_ERRORS,
)
