"""What the scripted model makes of texts: vectors and scores that count words, so that a test knows them beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot
from struct import pack
from zlib import crc32

from localllm.contract.errors import ContextLengthExceededError
from localllm.contract.generation import TextPrompt, TokenPrompt
from localllm.contract.pooling import PairPrompt, PoolInput, PoolRequest

SCRIPTED_DIMENSIONS = 32


def scripted_vector(text: str) -> list[float]:
    """Return the vector of a text: the count of each word, so that texts that share words are near; of length 1.

    A word's dimension, of the 32, is a hash of it in lower case.
    """
    return _scaled(_counts(text.split()))


def scripted_score(query: str, document: str) -> float:
    """Return the logit of a pair: how many different words of the query the document has, less 1."""
    return len(set(query.lower().split()) & set(document.lower().split())) - 1.0


def scripted_counts(request: PoolRequest, context_length: int) -> tuple[list[int], tuple[int, ...]]:
    """Return how many tokens each input has (its words and two more), and which were cut.

    Raises ``ContextLengthExceededError`` for a text that is too long and may not be cut.
    """
    counts = [len(_words(one)) + 2 for one in request.inputs]
    too_long = tuple(index for index, count in enumerate(counts) if count > context_length)
    if too_long and not request.truncate:
        raise ContextLengthExceededError(counts[too_long[0]], context_length)
    return [min(count, context_length) for count in counts], too_long


def scripted_output(request: PoolRequest, one: PoolInput) -> bytes:
    """Return one vector, or one score, as little-endian float32."""
    if isinstance(one, PairPrompt):
        return pack("<f", scripted_score(one.query, one.document))
    vector = _counts(_words(one))[: request.dimensions]
    return pack(f"<{len(vector)}f", *(_scaled(vector) if request.normalize else vector))


def _words(one: PoolInput) -> Sequence[object]:
    match one:
        case TextPrompt(text=text):
            return text.split()
        case PairPrompt(query=query, document=document):
            return f"{query} {document}".split()
        case TokenPrompt(tokens=tokens):
            return tokens


def _counts(words: Sequence[object]) -> list[float]:
    counts = [0.0] * SCRIPTED_DIMENSIONS
    for word in words:
        counts[crc32(str(word).lower().encode()) % SCRIPTED_DIMENSIONS] += 1.0
    return counts


def _scaled(vector: list[float]) -> list[float]:
    length = hypot(*vector) or 1.0
    return [value / length for value in vector]
