"""What the rerank endpoints say of themselves."""

from __future__ import annotations

from typing import Any

from localllm import MODEL_ERRORS, EndpointDoc, ResponseDoc
from localllm.openai import RerankRequest, TextsRerankRequest, request_schema
from localllm.openai.answer_schemas import cohere_rerank_schema, rerank_schema

_HEADERS = {"x-scored-by": "For `texts`: what of the model gave the scores, `classification_head` or `cosine`."}
_DOCUMENTS = {
    "query": "What is the capital of France?",
    "documents": ["Paris is the capital of France.", "Bananas are yellow."],
    "top_n": 1,
}
_OBJECTS = {
    "query": "yellow fruit",
    "documents": [{"title": "Banana", "text": "It is yellow."}, {"title": "Plum", "text": "It is blue."}],
    "rank_fields": ["title", "text"],
}


def _request() -> dict[str, Any]:
    """Return the schema of a body with ``documents``, or with ``texts``."""
    return {
        "title": "Rerank",
        "anyOf": [{"$ref": "#/$defs/RerankRequest"}, {"$ref": "#/$defs/TextsRerankRequest"}],
        "$defs": {model.__name__: request_schema(model)() for model in (RerankRequest, TextsRerankRequest)},
    }


RERANK_DOC = EndpointDoc(
    summary="Order documents by their relevance to a query",
    description=(
        "For clients of Jina's, Cohere's v1 and others' endpoints; with `texts` instead of `documents` for those of "
        "text-embeddings-inference, which read a bare array. Scores are 0 to 1, from a model with a classification "
        "head, or cosines of an embedding model's vectors: `scored_by` tells."
    ),
    tag="embeddings and rerank",
    request=_request,
    examples={
        "Documents": _DOCUMENTS,
        "Objects": _OBJECTS,
        "Texts": {"query": "yellow fruit", "texts": ["a banana", "a plum"], "return_text": True},
    },
    responses={200: ResponseDoc("The documents, the best first.", schema=rerank_schema, headers=_HEADERS)},
    errors=MODEL_ERRORS,
)

COHERE_V2_DOC = EndpointDoc(
    summary="The same for clients of Cohere's v2",
    description="Results hold no documents, and long documents are cut rather than refused.",
    tag="embeddings and rerank",
    request=_request,
    examples={"Documents": _DOCUMENTS},
    responses={200: ResponseDoc("The documents, the best first.", schema=cohere_rerank_schema, headers=_HEADERS)},
    errors=MODEL_ERRORS,
)
