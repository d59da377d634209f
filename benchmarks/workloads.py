"""The work that both sides are given: sizes in tokens, and prompts as token ids drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Workload:
    """Sizes of one benchmark run; all counts are tokens."""

    n_vocab: int
    short_prompt: int = 64
    short_answer: int = 64
    system_prompt: int = 1000
    tail: int = 16
    shared_requests: int = 32
    shared_at_a_time: int = 16
    shared_answer: int = 16
    long_prompt: int = 1800
    cached_prompt: int = 200
    conversations: int = 12
    turns: int = 4
    turn_prompt: int = 48
    turn_answer: int = 48

    def prompt(self, seed: int, length: int) -> list[int]:
        """Return ``length`` ordinary token ids; the last ids of a vocabulary are control tokens."""
        rng = random.Random(seed)
        return [rng.randrange(300, self.n_vocab - 64) for _ in range(length)]
