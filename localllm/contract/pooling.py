"""One pooling request: texts in, one vector or one score for each of them out; and the seam to what computes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from localllm.contract.errors import InvalidRequestError, ModelUnsupportedError
from localllm.contract.generation import TextPrompt, TokenPrompt

PoolingKind = Literal["mean", "cls", "last", "rank"]

ScoreScale = Literal["logit", "probability"]
"""How a model with a classification head states its score: unbounded (a sigmoid makes it 0..1), or 0..1 already."""


@dataclass(frozen=True, slots=True)
class PoolingInfo:
    """What a model that was loaded to pool gives for one text.

    ``dimensions`` is the length of its vectors in floats; 1 for scores (``kind`` "rank"). ``scale`` is None unless
    ``kind`` is "rank".
    """

    kind: PoolingKind
    dimensions: int
    scale: ScoreScale | None = None


@dataclass(frozen=True, slots=True)
class PairPrompt:
    """A query and a document, to be scored together by a model with a classification head.

    The worker writes them as the model wants them: its two-segment prompt, or its ``rerank`` chat template.
    """

    query: str
    document: str


PoolInput = TextPrompt | TokenPrompt | PairPrompt


@dataclass(frozen=True, slots=True)
class PoolRequest:
    """Texts to pool, all of the same type, answered in any order by their index.

    Pairs need a model of kind "rank"; texts and tokens any other. ``truncate`` cuts what is longer than the model's
    context (a pair: its document) instead of refusing the request. ``max_document_tokens`` cuts texts and the documents
    of pairs to so many tokens, those that the model puts around them not counted.
    ``dimensions`` keeps so many leading floats of each vector; ``normalize`` then scales it to length 1 (L2). Neither
    touches scores. ``owner`` names whose request it is, for fairness.
    """

    inputs: tuple[PoolInput, ...]
    truncate: bool = False
    max_document_tokens: int | None = None
    dimensions: int | None = None
    normalize: bool = True
    owner: str = ""


def check_pool_request(request: PoolRequest, info: PoolingInfo, model: str) -> None:
    """Refuse what a model that gives ``info`` can't answer; ``model`` is what errors call it ("Model 'm'").

    Raises ``InvalidRequestError`` (param "input" where there is none, "dimensions" for a number that vectors can't
    have) and ``ModelUnsupportedError`` (param "model"): pairs need a model that scores, texts and tokens one that
    does not.
    """
    if not request.inputs:
        raise InvalidRequestError("There is no input. Send at least one text.", param="input")
    ranks = info.kind == "rank"
    if any(isinstance(one, PairPrompt) is not ranks for one in request.inputs):
        if ranks:
            message = f"{model} scores pairs of texts and gives no vectors. Name an embedding model."
        else:
            message = f"{model} gives vectors and has no classification head to score pairs by. Name a reranker."
        raise ModelUnsupportedError(message, param="model")
    wanted = None if ranks else request.dimensions
    if wanted is not None and not 1 <= wanted <= info.dimensions:
        message = f"{model} gives vectors of 1 to {info.dimensions} dimensions, but dimensions is {wanted}."
        raise InvalidRequestError(message, param="dimensions")


@dataclass(frozen=True, slots=True)
class PoolStarted:
    """Every text was tokenised and fits. Sent once, before any vector."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Pooled:
    """Vectors (or scores) of some inputs: what one batch brought.

    ``data`` is the vectors of ``indices`` one after the other, little-endian float32.
    """

    indices: tuple[int, ...]
    data: bytes

    def vectors(self) -> Iterator[tuple[int, bytes]]:
        """Yield each index with its part of ``data``; ``struct.unpack`` makes floats of it."""
        width = len(self.data) // max(1, len(self.indices))
        for place, index in enumerate(self.indices):
            yield index, self.data[place * width : (place + 1) * width]


@dataclass(frozen=True, slots=True)
class PoolFinished:
    """Every input was answered. The last event of every successful request.

    ``truncated`` are the inputs that were cut. Milliseconds are by the worker's clock: waiting, then pooling.
    """

    prompt_tokens: int
    truncated: tuple[int, ...] = ()
    queue_ms: float = 0.0
    compute_ms: float = 0.0


PoolEvent = PoolStarted | Pooled | PoolFinished
"""What a client's ``pool`` yields; a ``Failed`` is raised as its typed exception instead."""


@dataclass(frozen=True, slots=True)
class PoolCapabilities:
    """What one batch may hold: ``batch_tokens`` is the best size, and a text with more than that goes alone."""

    context_length: int  # tokens of one text, those that the model puts around it included
    batch_tokens: int  # tokens that are computed at once, unless one text alone has more
    batch_texts: int  # texts in one batch, at most


@dataclass(frozen=True, slots=True)
class PoolItem:
    """One text of a batch, with what becomes of its vector (see :class:`PoolRequest`)."""

    tokens: tuple[int, ...]
    dimensions: int | None = None
    normalize: bool = True


class Pooler(Protocol):
    """Computes batches. Called from the worker's step thread."""

    @property
    def capabilities(self) -> PoolCapabilities:
        """Fixed after loading."""
        ...

    def pool(self, batch: Sequence[PoolItem]) -> Sequence[bytes]:
        """Return one vector (or score) for each item, in order, as little-endian float32."""
        ...


class PoolEncoder(Protocol):
    """Turns inputs into the tokens that are pooled. Called from the intake thread.

    Lengths count all tokens, those that the model puts around a text included.
    """

    def encode_text(self, text: str, *, max_tokens: int | None = None) -> list[int]:
        """Return the tokens of one text, its end cut off where they would be more than ``max_tokens``."""
        ...

    def encode_pair(
        self, query: str, document: str, *, max_tokens: int | None = None, max_document_tokens: int | None = None
    ) -> list[int]:
        """Return the tokens of a query and a document as the model scores them.

        The document's end is cut off, never the query's. Where even an empty document leaves more than ``max_tokens``,
        the result is longer than that. Raises ``ModelUnsupportedError`` where the model can't score pairs.
        """
        ...
