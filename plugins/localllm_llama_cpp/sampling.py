"""Draws the next token of each choice from its row of logits: exactly as llama.cpp would, at a fraction of the cost."""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localllm import InvalidRequestError, Sampled, SamplingParams

from .chain import Candidates, Chain, ChainParams
from .logprobs import RowLogprobs
from .penalties import Adjusted, Biases, Penalties, TokenWindow
from .pruning import min_p_candidates, top_k_candidates

Row = NDArray[np.float32]

GREEDY_BELOW = 1e-20  # temperatures that would drive scaled logits to infinity mean the likeliest token


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a request means that leaves a parameter out: the file's ``general.sampling.*``, or these."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05

    def fill(self, sampling: SamplingParams) -> ChainParams:
        """Return the chain's parameters for one request."""
        top_k = self.top_k if sampling.top_k is None else sampling.top_k
        return ChainParams(
            temperature=self.temperature if sampling.temperature is None else sampling.temperature,
            top_k=max(0, top_k),
            top_p=self.top_p if sampling.top_p is None else sampling.top_p,
            min_p=self.min_p if sampling.min_p is None else sampling.min_p,
        )


@dataclass(frozen=True, slots=True)
class VocabularyFacts:
    """What sampling needs to know of the vocabulary. ``suppressed`` tokens are never drawn (the file says so)."""

    n_vocab: int
    end_tokens: frozenset[int]
    suppressed: frozenset[int] = frozenset()


class SeedSource:
    """Seeds for requests that bring none: random, or a fixed series when the configuration has a seed."""

    def __init__(self, seed: int | None) -> None:
        self._series = None if seed is None else random.Random(seed)  # noqa: S311  # reproducible on purpose

    def next(self) -> int:
        """Return 32 bits."""
        return secrets.randbits(32) if self._series is None else self._series.getrandbits(32)


class ChoiceSampler:
    """The sampler of one choice; it remembers what was drawn, also while its sequence is preempted."""

    def __init__(
        self,
        sampling: SamplingParams,
        params: ChainParams,
        vocabulary: VocabularyFacts,
        seed: int,
        window_size: int,
        prompt: Sequence[int],
    ) -> None:
        self._params = params
        self._vocabulary = vocabulary
        self._min_tokens = sampling.min_tokens
        self._n_drawn = 0
        self._chain = None if params.temperature < GREEDY_BELOW else Chain(params, seed)
        banned = set(vocabulary.suppressed)
        self._biases_early = Biases(sampling.logit_bias, banned | vocabulary.end_tokens)
        self._biases = self._biases_early if sampling.ignore_eos else Biases(sampling.logit_bias, banned)
        self._penalties = _penalties(sampling, window_size, prompt)

    def draw(self, row: Row, candidates: Candidates) -> int:
        """Draw from ``row``, which is unchanged afterwards. Returns -1 when not one token may be drawn.

        That is so when all are banned, or when the model has computed "not a number".
        """
        biases = self._biases_early if self._n_drawn < self._min_tokens else self._biases
        with Adjusted(row, biases, self._penalties) as adjusted:
            token = self._choose(adjusted, candidates)
        if token >= 0:
            self._n_drawn += 1
            if self._chain is not None:
                self._chain.accept(token)
            if self._penalties is not None:
                self._penalties.accept(token)
        return token

    def close(self) -> None:
        """Free what the library holds."""
        if self._chain is not None:
            self._chain.close()

    def _choose(self, row: Row, candidates: Candidates) -> int:
        if self._chain is None:
            token = int(row.argmax())  # finds the first "not a number", if there is one
            return token if math.isfinite(row[token]) else -1
        ids = self._prune(row)
        kept = row if ids is None else row[ids]
        if not math.isfinite(kept.max(initial=-np.inf)):
            return -1
        return self._chain.draw(candidates, row, ids)

    def _prune(self, row: Row) -> NDArray[np.intp] | None:
        params = self._params
        if params.top_k > 0:
            return top_k_candidates(row, params.top_k)
        if params.min_p > 0.0 and params.top_p >= 1.0:
            return min_p_candidates(row, params.min_p)
        return None


class RequestSampler:
    """The samplers of all choices of one request."""

    def __init__(
        self,
        sampling: SamplingParams,
        prompt: Sequence[int],
        *,
        defaults: SamplingDefaults,
        vocabulary: VocabularyFacts,
        seeds: SeedSource,
        context_length: int,
    ) -> None:
        for token, _ in sampling.logit_bias:
            if not 0 <= token < vocabulary.n_vocab:
                message = f"logit_bias names token {token}, but this model's tokens are 0 to {vocabulary.n_vocab - 1}."
                raise InvalidRequestError(message, param="logit_bias")
        params = defaults.fill(sampling)
        seed = seeds.next() if sampling.seed is None else sampling.seed
        window = context_length if sampling.repeat_last_n < 0 else sampling.repeat_last_n
        self._logprobs = sampling.logprobs
        self._vocabulary = vocabulary
        self._choices = [
            ChoiceSampler(sampling, params, vocabulary, seed + choice, window, prompt) for choice in range(sampling.n)
        ]

    def sample(self, choice: int, row: Row, candidates: Candidates, shared: list[RowLogprobs]) -> Sampled:
        """Draw for ``choice``. ``shared`` is an empty list for each new row; what its choices share is kept there."""
        token = self._choices[choice].draw(row, candidates)
        if token < 0:
            return Sampled(token=min(self._vocabulary.end_tokens, default=0), is_end=True)
        is_end = token in self._vocabulary.end_tokens
        if self._logprobs is None:
            return Sampled(token, is_end)
        if not shared:
            shared.append(RowLogprobs(row))
        return Sampled(token, is_end, shared[0].of(token), shared[0].top(self._logprobs))

    def close(self) -> None:
        """Free what the library holds."""
        for choice in self._choices:
            choice.close()


def _penalties(sampling: SamplingParams, window_size: int, prompt: Sequence[int]) -> Penalties | None:
    neutral = sampling.repeat_penalty == 1.0 and sampling.frequency_penalty == 0.0 and sampling.presence_penalty == 0.0
    if neutral or window_size == 0:
        return None
    window = TokenWindow(window_size, prompt)
    return Penalties(window, sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
