"""Turns a pooling request's inputs into tokens, some at a time, or into the error that says why not."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from localllm.contract.backend import LoadedPooler
from localllm.contract.errors import ContextLengthExceededError, InvalidRequestError, ModelUnsupportedError
from localllm.contract.generation import TextPrompt
from localllm.contract.pooling import (
    PairPrompt,
    PoolEncoder,
    PoolingInfo,
    PoolInput,
    PoolRequest,
    check_pool_request,
)
from localllm.contract.wire import Submit
from localllm.engine.pool_loop import PreparedPool
from localllm.worker.intake import check_ids

SLICE_CHARACTERS = 8_192
"""Other requests get their turn after so many characters (or so many tokens), a few milliseconds of tokenising. Each
input counts for ``_INPUT_CHARACTERS`` more, since even a short one takes its time."""

_INPUT_CHARACTERS = 32


def prepare_pool(
    submit: Submit, model: LoadedPooler, pooling: PoolingInfo, *, queued_at: float
) -> Iterator[PreparedPool | None]:
    """Encode and check one request (intake thread): yield None after each slice of it, at last the tokens.

    Raises ``LocalLLMError``. Tokens are kept in 4 bytes each: a request may well have a million.
    """
    request = submit.request
    if not isinstance(request, PoolRequest):
        message = "This model is loaded to pool texts; it can't write text as it is loaded."
        raise ModelUnsupportedError(message, param="model")
    check_pool_request(request, pooling, "This model")
    inputs = _Inputs(request, model)
    texts: list[array[int]] = []
    worked = 0
    for index, one in enumerate(request.inputs):
        texts.append(array("i", inputs.tokens_of(index, one)))
        worked += _INPUT_CHARACTERS + _size_of(one)
        if worked >= SLICE_CHARACTERS:
            worked = 0
            yield None
    yield PreparedPool(
        request_id=submit.request_id,
        texts=tuple(texts),
        truncated=tuple(inputs.truncated),
        dimensions=None if pooling.kind == "rank" else request.dimensions,
        normalize=request.normalize,
        owner=request.owner,
        queued_at=queued_at,
    )


def _size_of(one: PoolInput) -> int:
    match one:
        case TextPrompt(text=text):
            return len(text)
        case PairPrompt(query=query, document=document):
            return len(query) + len(document)
        case _:
            return len(one.tokens)


class _Inputs:
    """Encodes the inputs of one request, and notes which were cut."""

    def __init__(self, request: PoolRequest, model: LoadedPooler) -> None:
        self.truncated: list[int] = []
        self._truncate = request.truncate
        self._max_document_tokens = request.max_document_tokens
        self._encoder: PoolEncoder = model.encoder
        self._n_vocab = model.info.n_vocab
        self._n_ctx = model.pooler.capabilities.context_length
        self._max_text_tokens: int | None = None
        if request.max_document_tokens is not None and not isinstance(request.inputs[0], PairPrompt):
            # What the model puts around a text doesn't count, as for pairs.
            self._max_text_tokens = request.max_document_tokens + len(self._encoder.encode_text(""))

    def tokens_of(self, index: int, one: PoolInput) -> Sequence[int]:
        """Return the tokens of one input, which the model can take. Raises ``LocalLLMError``."""
        match one:
            case PairPrompt():
                tokens = self._pair(index, one)
            case TextPrompt(text=text):
                tokens = self._text(index, text)
            case _:
                tokens = self._given(index, one.tokens)
        if not tokens:
            message = f"Input {index} is empty: there is nothing to pool. Leave it out, or send at least one character."
            raise InvalidRequestError(message, param="input")
        if min(tokens) < 0 or max(tokens) >= self._n_vocab:
            check_ids(tokens, self._n_vocab, "input")
        return tokens

    def _text(self, index: int, text: str) -> Sequence[int]:
        if not text:
            return ()
        tokens = self._encoder.encode_text(text)
        limit = self._max_text_tokens
        if limit is not None and limit < len(tokens) and limit <= self._n_ctx:
            self.truncated.append(index)
            return self._encoder.encode_text(text, max_tokens=limit)
        if len(tokens) <= self._n_ctx:
            return tokens
        self._cut(index, len(tokens), f"input {index}", "input")
        return self._encoder.encode_text(text, max_tokens=self._n_ctx)

    def _given(self, index: int, tokens: tuple[int, ...]) -> Sequence[int]:
        if len(tokens) <= self._n_ctx:
            return tokens
        self._cut(index, len(tokens), f"input {index}", "input")
        return tokens[: self._n_ctx]

    def _pair(self, index: int, pair: PairPrompt) -> Sequence[int]:
        limit = self._max_document_tokens
        encode = self._encoder.encode_pair
        tokens = encode(pair.query, pair.document, max_document_tokens=limit)
        if len(tokens) > self._n_ctx:
            self._cut(index, len(tokens), f"document {index} with its query", "documents")
            tokens = encode(pair.query, pair.document, max_tokens=self._n_ctx, max_document_tokens=limit)
            if len(tokens) > self._n_ctx:
                raise self._too_long(len(tokens), "the query, even with an empty document,", "query")
        elif limit is not None and len(tokens) >= limit and len(encode(pair.query, pair.document)) > len(tokens):
            self.truncated.append(index)
        return tokens

    def _cut(self, index: int, n_tokens: int, what: str, param: str) -> None:
        """Note that an input is to be cut, or refuse it."""
        if not self._truncate:
            raise self._too_long(n_tokens, what, param)
        self.truncated.append(index)

    def _too_long(self, n_tokens: int, what: str, param: str) -> ContextLengthExceededError:
        fix = "Shorten the query" if param == "query" else "Shorten it, or ask for it to be truncated"
        message = f"This model's context holds {self._n_ctx} tokens, but {what} has {n_tokens}. {fix}."
        return ContextLengthExceededError(n_tokens, self._n_ctx, param=param, message=message)
