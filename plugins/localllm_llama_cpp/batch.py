"""One reusable ``llama_batch``, filled from a plan, or with texts, by a few array assignments."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import chain
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from localllm import Slice


class Batch:
    """Arrays for up to ``n_batch`` tokens, each in exactly one sequence. Used by the step thread only."""

    def __init__(self, n_batch: int) -> None:
        self._token = np.zeros(n_batch, dtype=np.int32)
        self._pos = np.zeros(n_batch, dtype=np.int32)
        self._seq = np.zeros(n_batch, dtype=np.int32)
        self._n_seq = np.ones(n_batch, dtype=np.int32)
        self._output = np.zeros(n_batch, dtype=np.int8)
        self._counting = np.arange(n_batch, dtype=np.int32)
        # seq_id is an array of pointers, one per token, each to the token's list of sequences: here, of one.
        self._seq_pointers = self._seq.ctypes.data + np.arange(n_batch, dtype=np.uintp) * self._seq.itemsize
        self.native: Any = lib.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._pos, ctypes.c_int32),
            n_seq_id=_pointer(self._n_seq, ctypes.c_int32),
            seq_id=_pointer(self._seq_pointers, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._output, ctypes.c_int8),
        )

    def fill(self, slices: Sequence[Slice]) -> list[Slice]:
        """Take the tokens of ``slices``, in order. Returns the slices with output rows, which have ``n_rows`` each."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        outputs: list[int] = []
        owners: list[Slice] = []
        for part in slices:
            n_tokens = len(part.tokens)
            tokens.extend(part.tokens)
            positions.extend(range(part.start, part.start + n_tokens))
            sequences.extend([part.seq] * n_tokens)
            if part.targets:
                outputs.extend(range(len(tokens) - n_tokens, len(tokens) - n_tokens + len(part.targets)))
            if part.sample:
                outputs.append(len(tokens) - 1)
            if part.sample or part.targets:
                owners.append(part)
        total = len(tokens)
        self._token[:total] = tokens
        self._pos[:total] = positions
        self._seq[:total] = sequences
        self._output[:total] = 0
        self._output[outputs] = 1
        self.native.n_tokens = total
        return owners

    def fill_texts(self, texts: Sequence[Sequence[int]]) -> None:
        """Take whole texts: each is the sequence of its index, from position 0 on, and every token is an output."""
        lengths = np.fromiter(map(len, texts), dtype=np.int32, count=len(texts))
        ends = np.cumsum(lengths, dtype=np.int32)
        total = int(ends[-1])
        self._token[:total] = np.fromiter(chain.from_iterable(texts), dtype=np.int32, count=total)
        self._pos[:total] = self._counting[:total] - np.repeat(ends - lengths, lengths)
        self._seq[:total] = np.repeat(self._counting[: len(texts)], lengths)
        self._output[:total] = 1
        self.native.n_tokens = total

    def fill_piece(self, tokens: Sequence[int], start: int) -> None:
        """Take a piece of a text, from position ``start`` on, as sequence 0; every token is an output."""
        total = len(tokens)
        self._token[:total] = tokens
        self._pos[:total] = self._counting[:total] + start
        self._seq[:total] = 0
        self._output[:total] = 1
        self.native.n_tokens = total


def _pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:  # noqa: ANN401  # ctypes types
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
