"""Computes batches of texts with llama.cpp: one call, then one vector or score for each of them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from localllm import PoolCapabilities, PoolingKind, PoolItem

from .batch import Batch
from .decoder import DECODE_ERRORS
from .pool_memory import PoolPlan
from .pooling_rules import ScoreRule

Vectors = NDArray[np.float32]


class LlamaPooler:
    """The real pooler. ``pool`` runs on the step thread; the context outlives it and is freed by the loader.

    ``width`` is how many floats the library gives for one text: the vector's, or the outputs of the head.
    """

    def __init__(
        self,
        context: Any,  # noqa: ANN401  # llama_context pointer
        plan: PoolPlan,
        kind: PoolingKind,
        width: int,
        score: ScoreRule | None,
    ) -> None:
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._run: Callable[[Any, Any], int] = lib.llama_decode if self._memory else lib.llama_encode
        self._plan = plan
        self._kind = kind
        self._width = width
        self._score = score
        self._capabilities = PoolCapabilities(plan.context_length, plan.batch_tokens, plan.batch_texts)
        self._batch = Batch(plan.micro_batch)

    @property
    def capabilities(self) -> PoolCapabilities:
        """Fixed after loading."""
        return self._capabilities

    def pool(self, batch: Sequence[PoolItem]) -> Sequence[bytes]:
        """Return one vector (or score) for each item, in order, as little-endian float32.

        Raises ``ValueError`` for what the capabilities rule out, before anything is computed, and ``RuntimeError``
        when the library fails.
        """
        self._check(batch)
        if sum(len(item.tokens) for item in batch) <= self._plan.micro_batch:
            raw = self._together(batch)
        else:
            raw = np.concatenate([self._in_pieces(item.tokens) for item in batch])
        if self._score is not None:
            return [row.tobytes() for row in _scores(raw, self._score)]
        return _finish(raw, batch)

    def _check(self, batch: Sequence[PoolItem]) -> None:
        if not 0 < len(batch) <= self._plan.batch_texts:
            message = f"a batch of {len(batch)} texts was asked for; it may have 1 to {self._plan.batch_texts}"
            raise ValueError(message)
        lengths = [len(item.tokens) for item in batch]
        if min(lengths) == 0 or max(lengths) > self._plan.context_length:
            message = f"a text of {min(lengths)} or {max(lengths)} tokens; it may have 1 to {self._plan.context_length}"
            raise ValueError(message)
        if not self._plan.cut_texts and sum(lengths) > self._plan.micro_batch:
            message = f"a batch of {sum(lengths)} tokens was asked for; it may have {self._plan.micro_batch}"
            raise ValueError(message)

    def _together(self, batch: Sequence[PoolItem]) -> Vectors:
        """Compute all texts by one call."""
        self._forget()
        self._batch.fill_texts([item.tokens for item in batch])
        self._compute()
        vectors = np.empty((len(batch), self._width), dtype="<f4")
        for row in range(len(batch)):
            self._read(row, vectors, row)
        return vectors

    def _in_pieces(self, tokens: Sequence[int]) -> Vectors:
        """Compute one text by as many calls as it takes: only where attention looks back only.

        Each call pools its own piece: the text's mean is the pieces' weighted by length, its first and last tokens are
        those of the first and last piece.
        """
        self._forget()
        size = self._plan.micro_batch
        starts = range(0, len(tokens), size)
        pieces = np.empty((len(starts), self._width), dtype="<f4")
        for row, start in enumerate(starts):
            self._batch.fill_piece(tokens[start : start + size], start)
            self._compute()
            self._read(0, pieces, row)
        if self._kind == "mean":
            lengths = np.minimum(len(tokens) - np.array(starts), size)
            whole: Vectors = np.average(pieces, axis=0, weights=lengths, keepdims=True).astype("<f4")
            return whole
        return pieces[:1] if self._kind == "cls" else pieces[-1:]

    def _forget(self) -> None:
        if self._memory:
            lib.llama_memory_clear(self._memory, False)

    def _compute(self) -> None:
        code = self._run(self._context, self._batch.native)
        if code != 0:
            message = f"llama.cpp could not compute a batch, code {code}: {DECODE_ERRORS.get(code, 'unknown error')}"
            raise RuntimeError(message)

    def _read(self, sequence: int, vectors: Vectors, row: int) -> None:
        """Copy the library's vector of ``sequence`` to ``row``; it waits until that is computed."""
        pointer = lib.llama_get_embeddings_seq(self._context, sequence)
        if not pointer:
            message = f"llama.cpp returned no vector for text {sequence} of a batch"
            raise RuntimeError(message)
        ctypes.memmove(vectors.ctypes.data + row * vectors.strides[0], pointer, vectors.strides[0])


def _scores(raw: Vectors, rule: ScoreRule) -> Vectors:
    """Return one score for each row of a head's outputs."""
    if rule.softmax:
        exponentials = np.exp(raw - raw.max(axis=1, keepdims=True))
        raw = exponentials / exponentials.sum(axis=1, keepdims=True)
    return raw[:, rule.label].astype("<f4")


def _finish(raw: Vectors, batch: Sequence[PoolItem]) -> Sequence[bytes]:
    """Cut and normalise the vectors: rows that want the same are done together, and mostly all do."""
    wishes = [(item.dimensions, item.normalize) for item in batch]
    results: list[bytes] = [b""] * len(batch)
    for wish in set(wishes):
        rows = [row for row, other in enumerate(wishes) if other == wish]
        dimensions, normalize = wish
        vectors = raw[rows, :dimensions]
        if normalize:
            norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, np.newaxis]
            vectors = np.divide(vectors, norms, out=vectors, where=norms > 0)
        for row, vector in zip(rows, vectors, strict=True):
            results[row] = vector.tobytes()
    return results
