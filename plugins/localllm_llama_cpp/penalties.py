"""Changes to a few logits before sampling: repetition penalties, biases and bans, each undone after the draw."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]

BAN_AT = -100.0  # OpenAI: a bias of -100 "should result in a ban" of the token
_NO_IDS = np.empty(0, dtype=np.intp)
_NO_VALUES = np.empty(0, dtype=np.float32)


class TokenWindow:
    """How often each token stands among the last ``size`` ones; adding a token takes constant time.

    ``ids`` and ``counts`` are kept as arrays beside a map from token to index, so that nothing is rebuilt per step.
    """

    def __init__(self, size: int, tokens: Sequence[int] = ()) -> None:
        self._size = size
        self._recent: deque[int] = deque()
        self._index: dict[int, int] = {}
        self._ids = np.zeros(64, dtype=np.intp)
        self._counts = np.zeros(64, dtype=np.float32)
        for token in tokens[-size:] if size > 0 else ():
            self.add(token)

    def copy(self) -> TokenWindow:
        """Return a window with the same tokens."""
        return TokenWindow(self._size, tuple(self._recent))

    @property
    def ids(self) -> NDArray[np.intp]:
        """The different tokens in the window, in no order."""
        return self._ids[: len(self._index)]

    @property
    def counts(self) -> Row:
        """How often each of :attr:`ids` occurs."""
        return self._counts[: len(self._index)]

    def add(self, token: int) -> None:
        """Append ``token``; the oldest one leaves when the window is full."""
        if self._size <= 0:
            return
        self._recent.append(token)
        self._count_up(token)
        if len(self._recent) > self._size:
            self._count_down(self._recent.popleft())

    def _count_up(self, token: int) -> None:
        index = self._index.setdefault(token, len(self._index))
        if index == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[index] = token
        self._counts[index] += 1

    def _count_down(self, token: int) -> None:
        index = self._index[token]
        self._counts[index] -= 1
        if self._counts[index] > 0:
            return
        del self._index[token]
        last = len(self._index)  # the last entry moves into the gap
        if index != last:
            self._ids[index], self._counts[index] = self._ids[last], self._counts[last]
            self._index[int(self._ids[index])] = index
        self._counts[last] = 0


class Biases:
    """Values that are added to the logits of some tokens; minus infinity bans a token."""

    def __init__(self, added: Sequence[tuple[int, float]] = (), banned: Collection[int] = ()) -> None:
        values: dict[int, float] = {}
        for token, bias in added:
            values[token] = values.get(token, 0.0) + (-np.inf if bias <= BAN_AT else bias)
        values.update(dict.fromkeys(banned, -np.inf))
        self.ids = np.fromiter(values, dtype=np.intp, count=len(values)) if values else _NO_IDS
        self.values = np.fromiter(values.values(), dtype=np.float32, count=len(values)) if values else _NO_VALUES


class Penalties:
    """Repetition penalties as llama.cpp computes them (llama-sampler.cpp, ``llama_sampler_penalties_apply``)."""

    def __init__(self, window: TokenWindow, repeat: float, frequency: float, presence: float) -> None:
        self._window = window
        self._repeat = np.float32(repeat)
        self._frequency = np.float32(frequency)
        self._presence = np.float32(presence)

    def accept(self, token: int) -> None:
        """Count a token that was drawn."""
        self._window.add(token)

    @property
    def ids(self) -> NDArray[np.intp]:
        """Tokens whose logits change."""
        return self._window.ids

    def penalise(self, logits: Row) -> Row:
        """Return the new logits of :attr:`ids`, given their present ones."""
        changed: Row = np.where(logits <= 0, logits * self._repeat, logits / self._repeat)
        changed -= self._window.counts * self._frequency + self._presence
        return changed


class Adjusted:
    """``with Adjusted(row) as adjusted:`` logits are set inside and exactly as before afterwards.

    The row belongs to all choices that sample from it, and log-probabilities are read from it unchanged; copying its
    152,000 floats for each choice would cost more than the draw.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self._before: list[tuple[NDArray[np.intp], Row]] = []

    def __enter__(self) -> Adjusted:
        return self

    def set(self, ids: NDArray[np.intp], logits: Row | np.float32) -> None:
        """Give the tokens ``ids``, which are all different, new logits."""
        self._before.append((ids, self._row[ids]))
        self._row[ids] = logits

    def __exit__(self, *_: object) -> None:
        for ids, logits in reversed(self._before):
            self._row[ids] = logits
