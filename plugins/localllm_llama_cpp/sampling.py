"""Draws the next token of each choice from its row of logits: exactly as llama.cpp would, at a fraction of the cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localllm import Sampled

from .chain import Candidates, Chain, ChainParams
from .dry import Dry
from .grammars import GrammarState
from .logprobs import RowLogprobs
from .penalties import Adjusted, Biases, Penalties
from .pruning import candidates_of
from .word_bans import WordBans

Row = NDArray[np.float32]
Ids = NDArray[np.intp]

GREEDY_BELOW = 1e-20  # temperatures that would drive scaled logits to infinity mean the likeliest token
NO_TOKEN = -1
_BANNED = np.float32(-np.inf)


@dataclass(frozen=True, slots=True)
class DrawRules:
    """What all choices of a request have in common. ``ends`` are tokens that complete an answer.

    ``early`` biases hold for the first ``min_tokens`` tokens, ``biases`` for those after. No token outside of
    ``allowed`` (ascending ids; None: all) is drawn.
    """

    params: ChainParams
    n_vocab: int
    ends: frozenset[int]
    biases: Biases
    early: Biases
    min_tokens: int
    allowed: Ids | None


@dataclass(slots=True)
class ChoiceMemory:
    """What one choice remembers of its tokens; None where the request has no use for it."""

    penalties: Penalties | None = None
    dry: Dry | None = None
    words: WordBans | None = None
    grammar: GrammarState | None = None


class ChoiceSampler:
    """The sampler of one choice; it remembers what was drawn, also while its sequence is preempted.

    Under a grammar a token is drawn as if there were none and then looked at: that costs microseconds, a mask of all
    tokens up to milliseconds. Where it is not allowed, it leaves no trace but in the random numbers, and is drawn again
    from those that are. That gives each allowed token the probability which a mask from the start would give it,
    as far as top-k and its like don't come in between (llama.cpp does the same).
    """

    def __init__(self, rules: DrawRules, memory: ChoiceMemory, seed: int) -> None:
        self._rules = rules
        self._memory = memory
        self._n_drawn = 0
        greedy = rules.params.temperature < GREEDY_BELOW
        self._chain = None if greedy else Chain(rules.params, seed, rules.n_vocab)

    @property
    def grammar(self) -> GrammarState | None:
        """Where the choice stands in its grammar, if it has one."""
        return self._memory.grammar

    def draw(self, row: Row, candidates: Candidates) -> int | None:
        """Draw from ``row``, which is unchanged afterwards; None means: :meth:`redraw` with what the grammar allows.

        Returns ``NO_TOKEN`` when not one token may be drawn: all are banned, the model has computed "not a number", or
        the grammar is over.
        """
        grammar = self._memory.grammar
        if grammar is None:
            return self._taken(self._drawn(row, candidates, self._rules.allowed))
        if grammar.is_over:
            return NO_TOKEN
        if self._chain is not None and self._rules.params.adapts:
            return None
        token = self._drawn(row, candidates, self._rules.allowed)
        if token != NO_TOKEN and not grammar.allows(token):
            return None
        return self._taken(token)

    def redraw(self, row: Row, candidates: Candidates, allowed: Ids) -> int:
        """Draw from those tokens (ascending ids) that the grammar allows, or return ``NO_TOKEN``."""
        if self._rules.allowed is not None:
            allowed = np.intersect1d(allowed, self._rules.allowed, assume_unique=True)
        return self._taken(self._drawn(row, candidates, allowed))

    def force(self, tokens: Sequence[int]) -> None:
        """Remember tokens that were written without a draw. A grammar that does not allow them is let go."""
        for token in tokens:
            grammar = self._memory.grammar
            if grammar is not None and (grammar.is_over or not grammar.allows(token)):
                self._memory.grammar = None
            self._taken(token)

    def close(self) -> None:
        """Free what the library holds."""
        if self._chain is not None:
            self._chain.close()
        if self._memory.dry is not None:
            self._memory.dry.close()

    def _drawn(self, row: Row, candidates: Candidates, among: Ids | None) -> int:
        memory, rules = self._memory, self._rules
        biases = rules.early if self._n_drawn < rules.min_tokens else rules.biases
        with Adjusted(row) as adjusted:
            if len(biases.ids):  # first, as llama.cpp's chain has it (common/sampling.cpp)
                adjusted.set(biases.ids, row[biases.ids] + biases.values)
            if memory.penalties is not None:
                adjusted.set(memory.penalties.ids, memory.penalties.penalise(row[memory.penalties.ids]))
            if memory.dry is not None:
                adjusted.set(memory.dry.ids, memory.dry.penalise(row, candidates))
            if memory.words is not None:
                adjusted.set(memory.words.ids, _BANNED)
            return self._choose(row, candidates, among)

    def _choose(self, row: Row, candidates: Candidates, among: Ids | None) -> int:
        if self._chain is None:
            return _likeliest(row, among)
        ids = candidates_of(row, self._rules.params, among)
        kept = row if ids is None else row[ids]
        if not math.isfinite(kept.max(initial=-np.inf)):
            return NO_TOKEN
        return self._chain.draw(candidates, row, ids)

    def _taken(self, token: int) -> int:
        """Remember a token that is drawn for good."""
        if token == NO_TOKEN:
            return token
        self._n_drawn += 1
        memory = self._memory
        if self._chain is not None:
            self._chain.accept(token)
        if memory.penalties is not None:
            memory.penalties.accept(token)
        if memory.dry is not None:
            memory.dry.accept(token)
        if memory.words is not None:
            memory.words.accept(token)
        if memory.grammar is not None:
            memory.grammar.take(token)
        return token


class RequestSampler:
    """The samplers of all choices of one request. ``logprobs`` is how many alternatives are reported, if any."""

    def __init__(self, choices: Sequence[ChoiceSampler], ends: frozenset[int], logprobs: int | None) -> None:
        self.choices = choices
        self._ends = ends
        self._logprobs = logprobs

    def sample(
        self, choice: int, row: Row, candidates: Candidates, shared: list[RowLogprobs]
    ) -> tuple[Sampled, ...] | None:
        """Draw for ``choice``; None means: :meth:`resample` with what :meth:`grammar` allows.

        ``shared`` is an empty list for each new row; what its choices share is kept there. Where a token completes a
        grammar, the end comes with it.
        """
        token = self.choices[choice].draw(row, candidates)
        return None if token is None else self._sampled(choice, token, row, shared)

    def resample(
        self, choice: int, row: Row, candidates: Candidates, shared: list[RowLogprobs], allowed: Ids
    ) -> tuple[Sampled, ...]:
        """Draw for ``choice`` from the tokens that its grammar allows, after a draw that it does not allow."""
        token = self.choices[choice].redraw(row, candidates, allowed)
        return self._sampled(choice, token, row, shared)

    def grammar(self, choice: int) -> GrammarState:
        """Return where ``choice`` stands in its grammar, which it has if :meth:`sample` ever returned None."""
        grammar = self.choices[choice].grammar
        if grammar is None:
            message = f"choice {choice} has no grammar"
            raise LookupError(message)
        return grammar

    def close(self) -> None:
        """Free what the library holds."""
        for choice in self.choices:
            choice.close()

    def _sampled(self, choice: int, token: int, row: Row, shared: list[RowLogprobs]) -> tuple[Sampled, ...]:
        if token == NO_TOKEN:
            return (self._end(),)
        is_end = token in self._ends
        if self._logprobs is None:
            sampled = Sampled(token, is_end)
        else:
            if not shared:
                shared.append(RowLogprobs(row))
            sampled = Sampled(token, is_end, shared[0].of(token), shared[0].top(self._logprobs))
        grammar = self.choices[choice].grammar
        if grammar is not None and not is_end and grammar.is_over:
            return (sampled, self._end())
        return (sampled,)

    def _end(self) -> Sampled:
        return Sampled(token=min(self._ends, default=0), is_end=True)


def _likeliest(row: Row, among: Ids | None) -> int:
    if among is None:
        token = int(row.argmax())  # finds the first "not a number", if there is one
    elif len(among):
        token = int(among[row[among].argmax()])
    else:
        return NO_TOKEN
    return token if math.isfinite(row[token]) else NO_TOKEN
