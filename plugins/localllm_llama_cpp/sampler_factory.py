"""Makes the samplers of a request from what it asks for and from what the model's file says."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from localllm import InvalidRequestError, SamplingParams

from .dry import DryParams, DrySource
from .grammars import Grammars
from .penalties import Biases, Penalties, TokenWindow
from .sampling import ChoiceMemory, ChoiceSampler, DrawRules, Ids, RequestSampler
from .sampling_defaults import SamplingDefaults
from .word_bans import Encode, WordBans, encode_text, spellings


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


@dataclass(frozen=True, slots=True)
class SamplerFactory:
    """Makes request samplers for one loaded model; called on the step thread."""

    defaults: SamplingDefaults
    vocabulary: VocabularyFacts
    seeds: SeedSource
    context_length: int
    encode: Encode
    dry: DrySource
    grammars: Grammars

    def __call__(self, sampling: SamplingParams, prompt: Sequence[int]) -> RequestSampler:
        """Return the samplers of one request. Raises ``InvalidRequestError`` for what this model can't do."""
        self._check(sampling)
        params = self.defaults.fill(sampling)
        ends = self.vocabulary.end_tokens | frozenset(sampling.stop_tokens)
        biases, early = self._biases(sampling)
        rules = DrawRules(
            params=params,
            n_vocab=self.vocabulary.n_vocab,
            ends=ends,
            biases=biases,
            early=early,
            min_tokens=sampling.min_tokens,
            allowed=self._allowed(sampling),
        )
        seed = self.seeds.next() if sampling.seed is None else sampling.seed
        memories = self._memories(sampling, prompt)
        choices = [ChoiceSampler(rules, memory, seed + choice) for choice, memory in enumerate(memories)]
        return RequestSampler(choices, ends, sampling.logprobs)

    def _check(self, sampling: SamplingParams) -> None:
        self._check_ids((token for token, _ in sampling.logit_bias), "logit_bias")
        self._check_ids(sampling.stop_tokens, "stop_token_ids")
        self._check_ids(sampling.allowed_tokens or (), "allowed_token_ids")
        if sampling.allowed_tokens == ():
            message = "allowed_token_ids is empty, so that nothing could be written; name a token or leave it out."
            raise InvalidRequestError(message, param="allowed_token_ids")
        if sampling.mirostat not in (0, 1, 2):
            message = f"mirostat is {sampling.mirostat}; choose 0 (off), 1 or 2."
            raise InvalidRequestError(message, param="mirostat")

    def _check_ids(self, tokens: Iterable[int], param: str) -> None:
        n_vocab = self.vocabulary.n_vocab
        for token in tokens:
            if not 0 <= token < n_vocab:
                message = f"{param} names token {token}, but this model's tokens are 0 to {n_vocab - 1}."
                raise InvalidRequestError(message, param=param)

    def _biases(self, sampling: SamplingParams) -> tuple[Biases, Biases]:
        """Return what is added to logits, and what is added while ``min_tokens`` are not reached."""
        added = list(sampling.logit_bias)
        for text, bias in sampling.text_bias:
            added += ((token, bias) for token in dict.fromkeys(encode_text(self.encode, text, "logit_bias")))
        ends = self.vocabulary.end_tokens
        banned = set(self.vocabulary.suppressed)
        if sampling.constraint is not None:
            # To the grammar they are text, and would be drawn as such; but they would end the answer.
            banned |= ends - self.grammars.ends
        early = Biases(added, banned | ends | frozenset(sampling.stop_tokens))
        return Biases(added, banned | ends if sampling.ignore_eos else banned), early

    def _allowed(self, sampling: SamplingParams) -> Ids | None:
        if sampling.allowed_tokens is None:
            return None
        return np.array(sorted(self.vocabulary.end_tokens.union(sampling.allowed_tokens)), dtype=np.intp)

    def _memories(self, sampling: SamplingParams, prompt: Sequence[int]) -> list[ChoiceMemory]:
        """Return what each choice remembers. What may be refused comes first, so that nothing has to be freed."""
        memories = [ChoiceMemory() for _ in range(sampling.n)]
        sequences = [tokens for word in sampling.bad_words for tokens in spellings(self.encode, word, "bad_words")]
        window = self.context_length if sampling.repeat_last_n < 0 else sampling.repeat_last_n
        dry = DryParams.of(sampling, self.context_length)
        for memory in memories:
            memory.penalties = _penalties(sampling, window, prompt)
            memory.words = WordBans(sequences) if sequences else None
            memory.grammar = None if sampling.constraint is None else self.grammars.begin(sampling.constraint)
        if dry is not None:
            for memory, penalty in zip(memories, self.dry.make(dry, prompt, sampling.n), strict=True):
                memory.dry = penalty
        return memories


def _penalties(sampling: SamplingParams, window_size: int, prompt: Sequence[int]) -> Penalties | None:
    neutral = sampling.repeat_penalty == 1.0 and sampling.frequency_penalty == 0.0 and sampling.presence_penalty == 0.0
    if neutral or window_size == 0:
        return None
    window = TokenWindow(window_size, prompt)
    return Penalties(window, sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
