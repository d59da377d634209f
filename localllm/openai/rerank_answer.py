"""The answers of the rerank endpoints: scores in order, worded for the dialect of the request."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, Final, Literal

import orjson

from localllm.contract.pooling import ScoreScale
from localllm.openai.rerank import RerankCall

_ID_BYTES: Final = 12
_NAMED_IN_WARNING: Final = 20

ScoredBy = Literal["classification_head", "cosine"]


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model said: one number for each document, in the order of the request.

    ``scale`` is None for cosines. ``truncated`` are the documents that were cut to fit.
    """

    model: str
    scored_by: ScoredBy
    values: Sequence[float]
    scale: ScoreScale | None = None
    prompt_tokens: int = 0
    truncated: Sequence[int] = ()


def rerank_pieces(call: RerankCall, scores: Scores) -> Iterator[bytes]:
    """Yield the JSON of an answer, one piece for each document, the best first; equal ones keep their order.

    Scores on the scale of logits are made 0..1 by a sigmoid unless ``raw_scores`` is set; cosines and probabilities
    stay. Documents are ordered by what the model gave, since a sigmoid makes far ones equal.
    """
    order = sorted(range(len(scores.values)), key=lambda index: (-scores.values[index], index))[: call.top_n]
    as_is = call.raw_scores or scores.scale != "logit"
    ranked = [(index, scores.values[index] if as_is else sigmoid(scores.values[index])) for index in order]
    if call.dialect == "tei":
        yield b"["
        yield from _joined(_text_result(call, index, score) for index, score in ranked)
        yield b"]"
        return
    head: dict[str, Any] = {"id": f"rerank-{secrets.token_hex(_ID_BYTES)}"}
    if call.dialect == "v1":
        head |= {"object": "list", "model": scores.model}
    yield orjson.dumps(head)[:-1] + b',"results":['
    yield from _joined(_result(call, index, score) for index, score in ranked)
    if call.dialect == "v1":
        yield b'],"data":['
        yield from _joined(_datum(call, index, score) for index, score in ranked)
    yield b"]," + orjson.dumps(_facts(call, scores))[1:]


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(-logit)), without overflow far from zero."""
    if logit >= 0:
        return 1.0 / (1.0 + exp(-logit))
    grown = exp(logit)
    return grown / (1.0 + grown)


def _text_result(call: RerankCall, index: int, score: float) -> dict[str, Any]:
    text = {"text": call.texts[index]} if call.return_documents else {}
    return {"index": index, "score": score, **text}


def _result(call: RerankCall, index: int, score: float) -> dict[str, Any]:
    """Return one of Cohere's and Jina's results; a document that came as an object goes back as it was."""
    result: dict[str, Any] = {"index": index, "relevance_score": score}
    if call.return_documents:
        document = call.documents[index]
        result["document"] = (
            {"text": document} if isinstance(document, str) else {"text": call.texts[index], **document}
        )
    return result


def _datum(call: RerankCall, index: int, score: float) -> dict[str, Any]:
    """Return one result of those servers that answer like OpenAI's list objects."""
    document = {"document": call.texts[index]} if call.return_documents else {}
    return {"object": "rerank_result", **document, "relevance_score": score, "index": index}


def _facts(call: RerankCall, scores: Scores) -> dict[str, Any]:
    """Return what follows the results: what it cost, by what documents were scored, and which were cut."""
    usage = {"prompt_tokens": scores.prompt_tokens, "total_tokens": scores.prompt_tokens}
    meta: dict[str, Any] = {
        "api_version": {"version": "2" if call.dialect == "v2" else "1"},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": scores.prompt_tokens},
    }
    if scores.truncated:
        named = ", ".join(map(str, scores.truncated[:_NAMED_IN_WARNING]))
        more = ", …" if len(scores.truncated) > _NAMED_IN_WARNING else ""
        meta["warnings"] = [f"Documents that were cut to fit: {named}{more}."]
    return {**({"usage": usage} if call.dialect == "v1" else {}), "scored_by": scores.scored_by, "meta": meta}


def _joined(results: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    for place, result in enumerate(results):
        yield b"," + orjson.dumps(result) if place else orjson.dumps(result)
