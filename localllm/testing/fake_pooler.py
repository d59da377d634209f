"""A pooler without a model: strict, and its vectors depend on every token, so that any mix-up shows."""

from __future__ import annotations

import hashlib
import math
import struct
from collections import deque
from collections.abc import Callable, Sequence

from localllm.contract.pooling import PoolCapabilities, PoolingInfo, PoolItem
from localllm.testing.fake_memory import violated

BEGIN_TOKEN = 257
SEPARATOR_TOKEN = 256
"""Above the 256 byte values, as in ``ByteTokenizer``."""

_FLOAT_BYTES = 4

RECENT_BATCHES = 10_000
"""So many batches a fake pooler remembers, for tests to look at."""


def fake_vector(item: PoolItem, pooling: PoolingInfo) -> bytes:
    """Return what :class:`FakePooler` answers to an item: numbers in -1 .. 1 from a hash of all its tokens.

    As the contract wants it, the first ``item.dimensions`` of them, then normalised; a score is left alone.
    """
    ranks = pooling.kind == "rank"
    n_numbers = pooling.dimensions if ranks or item.dimensions is None else item.dimensions
    digest = hashlib.shake_256(",".join(map(str, item.tokens)).encode()).digest(_FLOAT_BYTES * n_numbers)
    numbers = [number / 2**31 - 1.0 for number in struct.unpack(f"<{n_numbers}I", digest)]
    if item.normalize and not ranks:
        length = math.hypot(*numbers)
        numbers = [number / length for number in numbers]
    return struct.pack(f"<{n_numbers}f", *numbers)


class FakePooler:
    """Answers each item with :func:`fake_vector`, and refuses (``ContractViolation``) what no batch may be.

    ``batches`` are the last ones that it was given. ``before_batch`` is called with each, before it is computed.
    """

    def __init__(
        self,
        capabilities: PoolCapabilities,
        pooling: PoolingInfo,
        *,
        before_batch: Callable[[Sequence[PoolItem]], object] = len,
    ) -> None:
        self.batches: deque[tuple[PoolItem, ...]] = deque(maxlen=RECENT_BATCHES)
        self._capabilities = capabilities
        self._pooling = pooling
        self._before_batch = before_batch

    @property
    def capabilities(self) -> PoolCapabilities:
        """As given."""
        return self._capabilities

    def pool(self, batch: Sequence[PoolItem]) -> Sequence[bytes]:
        """Return the vectors."""
        self._check(batch)
        self.batches.append(tuple(batch))
        self._before_batch(batch)
        return [fake_vector(item, self._pooling) for item in batch]

    def _check(self, batch: Sequence[PoolItem]) -> None:
        limits = self._capabilities
        if not 1 <= len(batch) <= limits.batch_texts:
            violated(f"a batch of {len(batch)} texts, where 1 to {limits.batch_texts} are allowed")
        lengths = [len(item.tokens) for item in batch]
        if not all(1 <= n_tokens <= limits.context_length for n_tokens in lengths):
            violated(f"texts of {lengths} tokens, where 1 to {limits.context_length} are allowed")
        if len(batch) > 1 and sum(lengths) > limits.batch_tokens:
            violated(f"a batch of {sum(lengths)} tokens, where {limits.batch_tokens} are allowed")
        for item in batch:
            if item.dimensions is not None and not 1 <= item.dimensions <= self._pooling.dimensions:
                violated(f"{item.dimensions} dimensions, where there are {self._pooling.dimensions}")


class ByteEncoder:
    """Bytes are tokens, with 257 in front, and 256 behind each text. Safe in any thread: it has no state."""

    def encode_text(self, text: str, *, max_tokens: int | None = None) -> list[int]:
        """Return 257, the bytes and 256; the bytes are cut."""
        n_bytes = None if max_tokens is None else max(0, max_tokens - 2)
        return [BEGIN_TOKEN, *text.encode()[:n_bytes], SEPARATOR_TOKEN]

    def encode_pair(
        self, query: str, document: str, *, max_tokens: int | None = None, max_document_tokens: int | None = None
    ) -> list[int]:
        """Return 257, the query's bytes, 256, the document's and 256; the document's are cut."""
        head = [BEGIN_TOKEN, *query.encode(), SEPARATOR_TOKEN]
        tail = list(document.encode()[:max_document_tokens])
        if max_tokens is not None:
            tail = tail[: max(0, max_tokens - len(head) - 1)]
        return [*head, *tail, SEPARATOR_TOKEN]
