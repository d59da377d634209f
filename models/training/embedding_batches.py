"""Makes the demo embedding model's training batches: pairs, and which of them must not count as different."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from .topic_grammar import Text, agree, grammar
from .topic_texts import noised, passage_pair, related_pairs, search_words, topic_text, topics, word_pair
from .wordpiece import SEPARATOR_ID, START_ID

_GROUP = 4
_WORD_PAIRS, _PASSAGE_PAIRS, _FRAME_PAIRS = 56, 24, 208
_PASSAGE_SENTENCES = (2, 5)
_LONG_TOPICS, _PAIRS_A_TOPIC, _LONG_SENTENCES = 6, 2, (5, 42)


@dataclass(frozen=True)
class PairBatch:
    """Token rows of the pairs' first and second texts, their first positions, and (pairs, pairs) of possible agreement.

    `agrees[i, j]` is true where the second text of pair j might also answer the first of pair i, and on the diagonal.
    """

    first: list[list[int]]
    second: list[list[int]]
    offsets: list[int]
    agrees: np.ndarray


def encode(tokenizer: Tokenizer, texts: list[str], context: int) -> list[list[int]]:
    """The texts' tokens between start and separator, cut to the context."""
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [[START_ID, *row.ids[: context - 2], SEPARATOR_ID] for row in encoded]


def _offset(rng: random.Random, length: int, context: int) -> int:
    """Mostly 0, else anywhere, so that the positions that only long texts reach get trained by short ones as well."""
    return rng.randint(0, context - length) if rng.random() < 0.3 else 0


def _agreement(first: list[Text], second: list[Text]) -> np.ndarray:
    agrees = np.eye(len(first), dtype=bool)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            agrees[i, j] |= agree(one, other)
    return agrees


def _batch(tokenizer: Tokenizer, rng: random.Random, pairs: list[tuple[Text, Text]], context: int) -> PairBatch:
    firsts, seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    rows = encode(tokenizer, [noised(rng, text.words) for text in firsts + seconds], context)
    offsets = [_offset(rng, len(row), context) for row in rows]
    return PairBatch(rows[: len(pairs)], rows[len(pairs) :], offsets, _agreement(firsts, seconds))


def same_meaning_batch(tokenizer: Tokenizer, seed: int, step: int, context: int) -> PairBatch:
    """Paraphrases and answers in groups that differ by their facts only, search words, and texts of the same words."""
    rng = random.Random(f"embedding {seed} {step}")
    pairs = [word_pair(rng) for _ in range(_WORD_PAIRS)]
    for topic in rng.choices(topics(), k=_PASSAGE_PAIRS // 2):
        pairs += [passage_pair(rng, topic, rng.randint(*_PASSAGE_SENTENCES)) for _ in range(2)]
    while len(pairs) < _WORD_PAIRS + _PASSAGE_PAIRS + _FRAME_PAIRS:
        for first, second in related_pairs(rng, rng.choice(grammar().frames), False, _GROUP):
            searched = search_words(rng, second) if rng.random() < 0.12 else None
            pairs.append((searched or first, second))
    return _batch(tokenizer, rng, pairs, context)


def long_batch(tokenizer: Tokenizer, seed: int, step: int, context: int) -> PairBatch:
    """Passages up to the whole context, with others that say the same or questions they answer; two of each topic."""
    rng = random.Random(f"embedding, long {seed} {step}")
    chosen = rng.sample(topics(), _LONG_TOPICS) * _PAIRS_A_TOPIC
    pairs = [passage_pair(rng, topic, rng.randint(*_LONG_SENTENCES)) for topic in chosen]
    return _batch(tokenizer, rng, pairs, context)


def topic_batch(tokenizer: Tokenizer, seed: int, step: int, context: int) -> PairBatch:
    """One pair of texts of each topic, which have no more than that in common."""
    rng = random.Random(f"embedding, topics {seed} {step}")
    pairs = [(topic_text(rng, topic), topic_text(rng, topic)) for topic in topics()]
    batch = _batch(tokenizer, rng, pairs, context)
    return PairBatch(batch.first, batch.second, batch.offsets, np.eye(len(pairs), dtype=bool))
