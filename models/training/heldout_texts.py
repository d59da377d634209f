"""Held-out texts that measure the bundled demo embedding model and reranker; needs the standard library only."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .topic_grammar import Facts, Frame, Text, agree, draw_facts, grammar, siblings, write
from .topic_texts import frames_of, pair, topics

FAR, NEAR = 20, 4
DOCUMENTS = 10
_SAME_FRAME, _SIBLINGS = 3, 2


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Two texts that say the same, texts of other topics, and texts of the same topic that say something else."""

    first: str
    second: str
    far: tuple[str, ...]
    near: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """A query and its documents, of which the first is the right one.

    `hard` counts the documents after it that say the same of something else, or something else of the same; the
    remaining ones are of other topics.
    """

    query: str
    documents: tuple[str, ...]
    hard: int


def _any_text(rng: random.Random, frames: list[Frame], facts: Facts | None = None) -> Text:
    """A held-out sentence of one of the frames, with the facts given where it has them."""
    for _ in range(300):
        frame = rng.choice(frames)
        text = write(rng, frame, draw_facts(rng, frame, True, facts), frame.says, True)
        if text is not None:
            return text
    raise ValueError(f"no held-out sentence of {frames[0].topic!r} found; give its frames more ways to say things")


def _other_topics(rng: random.Random, topic: str, count: int) -> list[Text]:
    others = [other for other in topics() if other != topic]
    return [_any_text(rng, frames_of(other)) for other in rng.sample(others, count)]


def _meaning(rng: random.Random) -> tuple[Frame, Facts, Text, Text]:
    """Two held-out texts that say the same, the second of them an answer where the first is a question."""
    while True:
        frame = rng.choice(grammar().frames)
        facts = draw_facts(rng, frame, True)
        drawn = pair(rng, frame, facts, True)
        if drawn is not None:
            return frame, facts, *drawn


def _near_texts(rng: random.Random, frame: Frame, facts: Facts, meant: tuple[Text, ...], count: int) -> list[Text]:
    """Texts of the same topic that say something else: of the same frame, of related ones, then of any."""
    texts: list[Text] = []
    for attempt in range(400):
        if len(texts) == count:
            break
        frames = [frame] if attempt < 30 and len(texts) < count - _SIBLINGS else siblings(frame)
        if attempt > 60:
            frames = frames_of(frame.topic)
        text = _any_text_or_none(rng, frames, facts if frames != [frame] else None)
        if (
            text is not None
            and not any(agree(one, text) for one in meant)
            and text.words not in [t.words for t in texts]
        ):
            texts.append(text)
    return texts


def _any_text_or_none(rng: random.Random, frames: list[Frame], facts: Facts | None) -> Text | None:
    frame = rng.choice(frames)
    return write(rng, frame, draw_facts(rng, frame, True, facts), frame.says, True)


def neighbours(count: int, seed: int) -> list[Neighbours]:
    """So many pairs of texts that say the same, with `FAR` texts of other topics and up to `NEAR` of the same."""
    rng = random.Random(f"localllm held-out pairs {seed}")
    found = []
    for _ in range(count):
        frame, facts, first, second = _meaning(rng)
        far = tuple(text.words for text in _other_topics(rng, frame.topic, FAR))
        near = tuple(text.words for text in _near_texts(rng, frame, facts, (first, second), NEAR))
        found.append(Neighbours(first.words, second.words, far, near))
    return found


def _among(rng: random.Random, text: Text, meant: tuple[Text, ...], sentences: int) -> str:
    """The text at a random place among held-out sentences of its topic that don't say what is meant."""
    others: list[str] = []
    while len(others) < sentences - 1:
        other = _any_text(rng, frames_of(text.topic))
        if not any(agree(one, other) for one in meant):
            others.append(other.words)
    others.insert(rng.randrange(len(others) + 1), text.words)
    return " ".join(words if words[-1] in ".?!" else f"{words}." for words in others)


def searches(count: int, seed: int, sentences: int = 1) -> list[Search]:
    """So many queries, each with `DOCUMENTS` documents of so many sentences, one sentence of one of which answers."""
    rng = random.Random(f"localllm held-out searches {seed} {sentences}")
    found: list[Search] = []
    while len(found) < count:
        frame, facts, query, right = _meaning(rng)
        meant = (query, right)
        hard = _near_texts(rng, frame, facts, meant, _SAME_FRAME + _SIBLINGS)
        texts = [right, *hard, *_other_topics(rng, frame.topic, DOCUMENTS - 1 - len(hard))]
        words = [text.words if sentences == 1 else _among(rng, text, meant, sentences) for text in texts]
        found.append(Search(query.words, tuple(words), len(hard)))
    return found
