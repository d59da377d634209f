"""Turns generated dialogues into packed rows of tokens with the assistant's tokens as targets."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from .chat_markup import (
    EMPTY_THOUGHT,
    END_OF_TEXT,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    PLAIN_SETTING,
    Message,
    Setting,
    last_question,
    rendered,
)
from .dialogues import chat, drill, long_chat
from .raw_text import completion, middle
from .tool_dialogues import thinking_chat, tool_chat

# A text, and whether its tokens count for the loss.
Segment = tuple[str, bool]


# What needs most repetition, by phase of the training: weights of sums, lists, counting and copying.
_DRILLS = {
    1: (60, 22, 18, 0),
    2: (26, 52, 22, 0),
    3: (30, 40, 30, 0),
    4: (30, 40, 30, 0),
    5: (30, 40, 30, 0),
    6: (8, 10, 8, 74),
    7: (15, 15, 15, 55),
    8: (15, 15, 15, 55),
    9: (8, 8, 8, 76),
    10: (8, 8, 8, 76),
}
_DRILL_SHARE = (0.0, 0.25, 0.25, 0.25, 0.06, 0.06, 0.4, 0.25, 0.25, 0.6, 0.6)
# Shares of dialogues with tools and of those with thoughts, in the phases that have any.
_TOOL_SHARES = {7: (0.36, 0.17), 8: (0.54, 0.16), 9: (0.42, 0.14), 10: (0.42, 0.14)}


@dataclass(frozen=True)
class Batch:
    """Arrays of (rows, length): tokens, the number of each one's document, and targets (-1 where nothing is asked)."""

    tokens: np.ndarray
    documents: np.ndarray
    targets: np.ndarray


def chat_segments(messages: list[Message], setting: Setting = PLAIN_SETTING) -> list[Segment]:
    """ChatML, cut so that only what the assistant writes, its end mark included, counts.

    Where thinking is on, earlier answers stand without their thoughts and so don't count.
    """
    segments: list[Segment] = []
    first = last_question(messages) if setting.thinking else -1
    texts = list(rendered(messages, setting))
    before = len(texts) - len(messages)  # 1 where the setting makes a system message of its own
    for index, (opening, own) in enumerate(texts):
        if index < before or messages[index - before].role != "assistant":
            segments.append((opening + own, False))
            continue
        if setting.thinking is False and index == len(texts) - 1:
            opening += EMPTY_THOUGHT
        segments += [(opening, False), (own[:-1], index - before > first), ("\n", False)]
    return segments


def _tool_document(rng: random.Random, long: bool) -> list[Segment]:
    turns = rng.randint(4, 12) if long else rng.choices((1, 2, 3, 4), (45, 30, 15, 10))[0]
    return chat_segments(*tool_chat(rng, turns, False if rng.random() < 0.04 else None))


def _thinking_document(rng: random.Random) -> list[Segment]:
    turns = rng.choices((1, 2, 3), (55, 30, 15))[0]
    if rng.random() < 0.3:
        return chat_segments(*tool_chat(rng, turns, True))
    return chat_segments(*thinking_chat(rng, turns, rng.random() > 0.12))


def _short_document(rng: random.Random, phase: int) -> list[Segment]:
    if phase in _TOOL_SHARES:
        roll = rng.random()
        tools, thoughts = _TOOL_SHARES[phase]
        if roll < tools:
            return _tool_document(rng, False)
        if roll < tools + thoughts:
            return _thinking_document(rng)
    if phase and rng.random() < _DRILL_SHARE[phase]:
        return chat_segments(drill(rng, *_DRILLS[phase]))
    roll = rng.random()
    if roll < 0.03:
        start, rest = completion(rng)
        return [(start, False), (rest + END_OF_TEXT, True)]
    if roll < 0.045:
        before, after, between = middle(rng)
        return [(f"{FIM_PREFIX}{before}{FIM_SUFFIX}{after}{FIM_MIDDLE}", False), (between + END_OF_TEXT, True)]
    return chat_segments(chat(rng, rng.choices((1, 2, 3, 4, 6), (30, 30, 20, 12, 8))[0]))


def _long_document(rng: random.Random, length: int, phase: int) -> list[Segment]:
    if phase in _TOOL_SHARES and rng.random() < 0.25:
        return _tool_document(rng, True)
    # About 2.6 characters to a token.
    return chat_segments(long_chat(rng, rng.randint(900, int(length * 2.55))))


def _encode(tokenizer: Tokenizer, documents: list[list[Segment]]) -> Iterator[tuple[list[int], list[bool]]]:
    flat = tokenizer.encode_batch([text for document in documents for text, _ in document], add_special_tokens=False)
    encoded = iter(flat)
    for document in documents:
        tokens: list[int] = []
        counted: list[bool] = []
        for _, counts in document:
            ids = next(encoded).ids
            tokens += ids
            counted += [counts] * len(ids)
        yield tokens, counted


class _Rows:
    """Rows being filled; a document goes into the first row with room for it."""

    def __init__(self, rows: int, length: int) -> None:
        self.tokens = np.zeros((rows, length), dtype=np.int64)
        self.documents = np.zeros((rows, length), dtype=np.int64)
        self.targets = np.full((rows, length), -1, dtype=np.int64)
        self.used = [0] * rows
        self.length = length
        self.count = 0

    def add(self, tokens: list[int], counted: list[bool]) -> bool:
        """Whether the document found room."""
        size = len(tokens)
        for row, used in enumerate(self.used):
            if used + size <= self.length:
                self.count += 1
                self.tokens[row, used : used + size] = tokens
                self.documents[row, used : used + size] = self.count
                wanted = [token if counts else -1 for token, counts in zip(tokens[1:], counted[1:], strict=True)]
                self.targets[row, used : used + size - 1] = wanted
                self.used[row] += size
                return True
        return False


def make_batch(tokenizer: Tokenizer, seed: int, step: int, rows: int, length: int, long: bool, phase: int) -> Batch:
    """The batch of this step, always the same for the same arguments; documents that find no room are left out."""
    rng = random.Random(f"{seed} {step} {long}")
    filled = _Rows(rows, length)
    misses = 0
    while misses < 6:
        if long:
            documents = [_long_document(rng, length, phase) for _ in range(2)]
            documents += [_short_document(rng, phase) for _ in range(2 if filled.count else 0)]
        else:
            documents = [_short_document(rng, phase) for _ in range(max(4, rows * length // 160 - filled.count))]
        misses += sum(not filled.add(tokens, counted) for tokens, counted in _encode(tokenizer, documents))
    return Batch(filled.tokens, filled.documents, filled.targets)
