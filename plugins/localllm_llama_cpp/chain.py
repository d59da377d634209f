"""llama.cpp's own sampler chain, fed with candidates of our choosing."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED: the library would take a random one
_STAND_IN_SEED = 0x9E3779B9  # for a caller who asks for exactly that seed
_MIROSTAT_M = 100  # tokens from which version 1 estimates how probabilities fall (common/sampling.cpp)

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # struct llama_token_data


@dataclass(frozen=True, slots=True)
class ChainParams:
    """Sampler settings with every default filled in. Temperature 0 is greedy and needs no chain."""

    temperature: float
    top_k: int  # 0: off
    top_p: float  # 1: off
    min_p: float  # 0: off
    typical_p: float = 1.0  # 1: off
    top_n_sigma: float = 0.0  # 0 or less: off
    xtc_probability: float = 0.0  # 0: off
    xtc_threshold: float = 0.1
    mirostat: int = 0  # 1, 2: takes the place of all but temperature
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1

    @property
    def adapts(self) -> bool:
        """Whether a draw changes the next one's settings, so that no draw may be thrown away."""
        return self.mirostat != 0

    @property
    def begins_with_top_k(self) -> bool:
        """Whether no other sampler sees what top-k throws away."""
        return self.top_k > 0 and self.top_n_sigma <= 0.0 and not self.mirostat

    @property
    def begins_with_min_p(self) -> bool:
        """Whether no other sampler sees what min-p throws away."""
        off = self.top_k <= 0 and self.top_n_sigma <= 0.0 and self.typical_p >= 1.0 and self.top_p >= 1.0
        return self.min_p > 0.0 and off and not self.mirostat

    @property
    def needs_finite(self) -> bool:
        """Whether a sampler multiplies a logarithm by its probability, which is "not a number" for a banned token."""
        return self.typical_p < 1.0 or self.mirostat != 0


class Candidates:
    """Room for one row's candidates in the library's own structure; used by one thread at a time."""

    def __init__(self, n_vocab: int) -> None:
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._table = np.zeros(n_vocab, dtype=_TOKEN_DATA)
        # A pointer of its own: what reading the structure's field gives changes with the field.
        self._data = ctypes.cast(self._table.ctypes.data, ctypes.POINTER(lib.llama_token_data))
        self._array = lib.llama_token_data_array(data=self._data, size=0, selected=-1, sorted=False)

    def fill(self, row: NDArray[np.float32], ids: NDArray[np.intp] | None) -> Any:  # noqa: ANN401  # a ctypes reference
        """Take the candidates ``ids`` of ``row`` (None: all) and return the reference for ``llama_sampler_apply``."""
        size = len(row) if ids is None else len(ids)
        table = self._table[:size]
        if ids is None:
            table["id"] = self._ids
            table["logit"] = row
        else:
            table["id"] = ids
            table["logit"] = row[ids]
        self._array.data = self._data  # a sampler may have pointed it elsewhere (llama.h)
        self._array.size = size
        self._array.selected = -1
        self._array.sorted = False
        return ctypes.byref(self._array)

    @property
    def logits(self) -> NDArray[np.float32]:
        """A copy of the candidates' logits, in the order of :meth:`fill` after a sampler that keeps order."""
        return self._table["logit"][: self._array.size].copy()

    @property
    def selected(self) -> int:
        """The token that the chain chose."""
        return int(self._array.data[self._array.selected].id)

    @property
    def survivors(self) -> list[tuple[int, float]]:
        """(token, probability) of what the chain left over, in its order."""
        return [(int(self._array.data[i].id), float(self._array.data[i].p)) for i in range(self._array.size)]


class Chain:
    """The samplers in llama.cpp's order (common/common.h), down to the seeded draw. Free it with :meth:`close`.

    Repetition penalties and DRY, which come first there, have changed the row already.
    """

    def __init__(self, params: ChainParams, seed: int, n_vocab: int) -> None:
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        seed &= 0xFFFFFFFF
        seed = _STAND_IN_SEED if seed == RANDOM_SEED else seed
        if params.mirostat:
            self._add_mirostat(params, seed, n_vocab)
            return
        if params.top_n_sigma > 0.0:
            self._add(lib.llama_sampler_init_top_n_sigma(params.top_n_sigma))
        if params.top_k > 0:
            self._add(lib.llama_sampler_init_top_k(params.top_k))
        if params.typical_p < 1.0:
            self._add(lib.llama_sampler_init_typical(params.typical_p, 1))
        if params.top_p < 1.0:
            self._add(lib.llama_sampler_init_top_p(params.top_p, 1))
        if params.min_p > 0.0:
            self._add(lib.llama_sampler_init_min_p(params.min_p, 1))
        if params.xtc_probability > 0.0:
            self._add(lib.llama_sampler_init_xtc(params.xtc_probability, params.xtc_threshold, 1, seed))
        self._add(lib.llama_sampler_init_temp(params.temperature))
        self._add(lib.llama_sampler_init_dist(seed))

    def draw(self, candidates: Candidates, row: NDArray[np.float32], ids: NDArray[np.intp] | None) -> int:
        """Return a token drawn from the candidates ``ids`` of ``row``; None stands for the whole row."""
        lib.llama_sampler_apply(self._chain, candidates.fill(row, ids))
        return candidates.selected

    def accept(self, token: int) -> None:
        """Tell the samplers which token was taken in the end."""
        lib.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free the samplers; the chain can't be used afterwards."""
        if self._chain is not None:
            lib.llama_sampler_free(self._chain)
            self._chain = None

    def _add_mirostat(self, params: ChainParams, seed: int, n_vocab: int) -> None:
        self._add(lib.llama_sampler_init_temp(params.temperature))
        tau, eta = params.mirostat_tau, params.mirostat_eta
        if params.mirostat == 1:
            self._add(lib.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, _MIROSTAT_M))
        else:
            self._add(lib.llama_sampler_init_mirostat_v2(seed, tau, eta))

    def _add(self, sampler: Any) -> None:  # noqa: ANN401  # a ctypes pointer
        lib.llama_sampler_chain_add(self._chain, sampler)  # which owns it from now on
