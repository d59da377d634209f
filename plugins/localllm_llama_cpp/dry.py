"""The "don't repeat yourself" penalty: llama.cpp's own, asked about no more tokens than it can change."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from localllm import InvalidRequestError, SamplingParams

from .chain import Candidates
from .penalties import Row, TokenWindow

CACHED_BREAKERS = 8
MAX_BREAKERS = 64  # each is looked for in the whole vocabulary
_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class DryParams:
    """Settings of the penalty with every default filled in; ``window`` counts tokens."""

    multiplier: float
    base: float
    allowed_length: int
    window: int
    breakers: tuple[str, ...]

    @staticmethod
    def of(sampling: SamplingParams, context_length: int) -> DryParams | None:
        """Return the settings of a request; None where the penalty is off (as ``llama_sampler_init_dry`` has it).

        Raises ``InvalidRequestError`` for more breakers than can be searched for.
        """
        last_n = sampling.dry_penalty_last_n
        window = context_length if last_n < 0 else min(last_n, context_length)
        if sampling.dry_multiplier == 0.0 or sampling.dry_base < 1.0 or window == 0:
            return None
        if len(sampling.dry_sequence_breakers) > MAX_BREAKERS:
            message = f"dry_sequence_breakers has more than {MAX_BREAKERS} entries; leave some out."
            raise InvalidRequestError(message, param="dry_sequence_breakers")
        allowed = max(0, min(sampling.dry_allowed_length, _LARGEST))
        return DryParams(
            sampling.dry_multiplier, sampling.dry_base, allowed, window, tuple(sampling.dry_sequence_breakers)
        )


class Dry:
    """The penalty of one choice. Free it with :meth:`close`."""

    def __init__(self, sampler: Any, window: TokenWindow) -> None:  # noqa: ANN401  # llama_sampler pointer, owned
        self._sampler = sampler
        self._window = window

    @property
    def ids(self) -> NDArray[np.intp]:
        """All tokens whose logits may change: each would repeat something, so it stands in the window."""
        return self._window.ids

    def penalise(self, row: Row, candidates: Candidates) -> Row:
        """Return the new logits of :attr:`ids`."""
        lib.llama_sampler_apply(self._sampler, candidates.fill(row, self.ids))
        return candidates.logits

    def accept(self, token: int) -> None:
        """Count a token that was drawn."""
        lib.llama_sampler_accept(self._sampler, token)
        self._window.add(token)

    def copy(self) -> Dry:
        """Return a penalty that has seen the same."""
        return Dry(lib.llama_sampler_clone(self._sampler), self._window.copy())

    def close(self) -> None:
        """Free the native sampler."""
        if self._sampler is not None:
            lib.llama_sampler_free(self._sampler)
            self._sampler = None


class DrySource:
    """Makes penalties for one vocabulary. Used by the step thread only."""

    def __init__(self, vocab: Any) -> None:  # noqa: ANN401  # llama_vocab pointer
        self._vocab = vocab
        self._prototypes: OrderedDict[DryParams, Any] = OrderedDict()

    @property
    def n_kept(self) -> int:
        """How many settings are prepared."""
        return len(self._prototypes)

    def make(self, params: DryParams, prompt: Sequence[int], count: int) -> list[Dry]:
        """Return ``count`` penalties that have seen ``prompt``."""
        first = Dry(lib.llama_sampler_clone(self._prototype(params)), TokenWindow(params.window))
        for token in prompt[-params.window :]:
            first.accept(token)
        return [first, *(first.copy() for _ in range(count - 1))]

    def close(self) -> None:
        """Free what was kept."""
        for sampler in self._prototypes.values():
            lib.llama_sampler_free(sampler)
        self._prototypes.clear()

    def _prototype(self, params: DryParams) -> Any:  # noqa: ANN401  # llama_sampler pointer
        """Return a native sampler that has seen nothing: finding its breakers in 152,000 tokens takes 40 ms."""
        found = self._prototypes.get(params)
        if found is not None:
            self._prototypes.move_to_end(params)
            return found
        breakers = [_bytes(breaker) for breaker in params.breakers]
        texts = (ctypes.c_char_p * len(breakers))(*breakers)
        found = lib.llama_sampler_init_dry(
            self._vocab,
            params.multiplier,
            params.base,
            params.allowed_length,
            params.window,
            ctypes.cast(texts, ctypes.POINTER(ctypes.c_char_p)),
            len(breakers),
        )
        self._prototypes[params] = found
        if len(self._prototypes) > CACHED_BREAKERS:
            lib.llama_sampler_free(self._prototypes.popitem(last=False)[1])
        return found


def _bytes(breaker: str) -> bytes:
    try:
        data = breaker.encode()
    except UnicodeEncodeError as error:
        message = "dry_sequence_breakers holds half of a surrogate pair; leave it out."
        raise InvalidRequestError(message, param="dry_sequence_breakers") from error
    if not data or b"\0" in data:
        message = f"dry_sequence_breakers holds {breaker!r}, which breaks nothing; leave it out."
        raise InvalidRequestError(message, param="dry_sequence_breakers")
    return data
