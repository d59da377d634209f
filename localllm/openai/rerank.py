"""The requests of the rerank endpoints, in the dialects of Cohere, Jina and others, made into one meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from localllm.contract.errors import InvalidRequestError
from localllm.openai.unsupported import RERANK_REFUSALS, refuse_unsupported
from localllm.openai.wire_model import FieldError, WireModel, describe, validate

MAX_DOCUMENTS: Final = 2048
MAX_RANK_FIELDS: Final = 16
MAX_QUERY_COPIES: Final = 4 * 1024 * 1024
"""Characters of the query times documents: the model gets the query anew with each of them."""

Dialect = Literal["v1", "v2", "tei"]
"""Whose answer is sent: "v1" what Jina, Cohere v1 and their likes read, "v2" Cohere's, "tei" a bare array."""


@dataclass(frozen=True, slots=True)
class RerankCall:
    """What is asked, whatever the dialect: score ``texts`` for ``query`` and return the best ``top_n``.

    ``documents`` are the texts as they were sent: strings, or objects that hold the text. ``texts_param`` is the field
    that they came in. ``max_document_tokens`` cuts each of them.
    """

    dialect: Dialect
    model: str | None
    query: str
    documents: Sequence[str | Mapping[str, Any]]
    texts: tuple[str, ...]
    texts_param: str
    top_n: int
    return_documents: bool
    raw_scores: bool
    truncate: bool
    max_document_tokens: int | None = None


def _check_documents(documents: object) -> object:
    """Check a list of strings and objects: one loop instead of a union for each entry."""
    if not isinstance(documents, list):
        raise FieldError(f"must be a list of strings or objects, not {describe(documents)}")
    if not documents:
        raise FieldError("must not be empty")
    if len(documents) > MAX_DOCUMENTS:
        raise FieldError(f"must have at most {MAX_DOCUMENTS} entries, not {len(documents)}")
    for index, document in enumerate(documents):
        if document == "":
            raise FieldError("must not be empty", at=f"[{index}]")
        if not isinstance(document, str | dict):
            raise FieldError(f"must be a string or an object with text, not {describe(document)}", at=f"[{index}]")
    return documents


class _CommonFields(WireModel):
    model: str | None = Field(None, max_length=512)
    query: str = Field(min_length=1)
    top_n: int | None = Field(None, ge=1)
    raw_scores: bool = False
    truncate: bool | None = None


class RerankRequest(_CommonFields):
    """A request with ``documents``: Cohere's, Jina's and those of servers like them."""

    documents: Annotated[list[Any], BeforeValidator(_check_documents)]
    return_documents: bool | None = None
    rank_fields: list[str] | None = Field(None, min_length=1, max_length=MAX_RANK_FIELDS, fail_fast=True)
    max_tokens_per_doc: int | None = Field(None, ge=1)


class TextsRerankRequest(_CommonFields):
    """A request with ``texts``: that of text-embeddings-inference."""

    texts: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, max_length=MAX_DOCUMENTS, fail_fast=True)
    return_text: bool = False


def parse_rerank(body: Mapping[str, Any], *, version: Literal[1, 2] = 1) -> RerankCall:
    """Return what ``body`` (decoded JSON) asks for. ``version`` 2 is for Cohere's path ``/v2/rerank``.

    ``texts`` instead of ``documents`` is a request of text-embeddings-inference, whatever the path. Without a word
    about it, long documents are cut where the dialect does so: for Cohere v2, for text-embeddings-inference, and where
    ``max_tokens_per_doc`` bounds them; elsewhere they are refused. Raises ``InvalidRequestError`` or
    ``UnsupportedFeatureError``, which name the field as ``param``.
    """
    refuse_unsupported(body, RERANK_REFUSALS)
    call = _parse(body, version)
    if len(call.query) * len(call.texts) > MAX_QUERY_COPIES:
        message = (
            f"query has {len(call.query)} characters and is scored with each of {len(call.texts)} documents; both "
            f"multiplied must be at most {MAX_QUERY_COPIES}. Shorten the query, or send fewer documents."
        )
        raise InvalidRequestError(message, param="query")
    return call


def _parse(body: Mapping[str, Any], version: Literal[1, 2]) -> RerankCall:
    if body.get("texts") is not None:
        if body.get("documents") is not None:
            message = "texts and documents are two names for the same thing: send one of them."
            raise InvalidRequestError(message, param="texts")
        return _from_texts(validate(TextsRerankRequest, body))
    return _from_documents(validate(RerankRequest, body), version)


def _from_texts(request: TextsRerankRequest) -> RerankCall:
    return RerankCall(
        dialect="tei",
        model=request.model,
        query=request.query,
        documents=request.texts,
        texts=tuple(request.texts),
        texts_param="texts",
        top_n=min(request.top_n or MAX_DOCUMENTS, len(request.texts)),
        return_documents=request.return_text,
        raw_scores=request.raw_scores,
        truncate=True if request.truncate is None else request.truncate,
    )


def _from_documents(request: RerankRequest, version: Literal[1, 2]) -> RerankCall:
    fields = list(dict.fromkeys(request.rank_fields or ["text"]))
    cut_by_default = version == 2 or request.max_tokens_per_doc is not None
    return RerankCall(
        dialect="v1" if version == 1 else "v2",
        model=request.model,
        query=request.query,
        documents=request.documents,
        texts=tuple(_text_of(document, index, fields) for index, document in enumerate(request.documents)),
        texts_param="documents",
        top_n=min(request.top_n or MAX_DOCUMENTS, len(request.documents)),
        return_documents=version == 1 and request.return_documents is not False,
        raw_scores=request.raw_scores,
        truncate=cut_by_default if request.truncate is None else request.truncate,
        max_document_tokens=request.max_tokens_per_doc,
    )


def _text_of(document: str | Mapping[str, Any], index: int, fields: Sequence[str]) -> str:
    """Return what is scored of a document: a string itself, of an object one field, or several as lines of YAML."""
    if isinstance(document, str):
        return document
    param = f"documents[{index}]"
    values = {name: document[name] for name in fields if document.get(name) not in (None, "")}
    for name, value in values.items():
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            message = f"{param}.{_shown(name)} must be a string or a number, but it is {describe(value)}."
            raise InvalidRequestError(message, param=f"{param}.{_shown(name)}")
    if not values:
        names = " or ".join(map(_shown, fields[:3])) + (" or …" if len(fields) > 3 else "")
        message = f"{param} has no text to rank: give it {names}, or name its fields in rank_fields."
        raise InvalidRequestError(message, param=param)
    if len(fields) == 1:
        return str(values[fields[0]])
    return "\n".join(f"{name}: {value}" for name, value in values.items())


def _shown(name: str) -> str:
    return name[:40]
