"""Makes the demo reranker's training batches: questions, each with one right document and several wrong ones."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tokenizers import Tokenizer

from .topic_grammar import Facts, Frame, Text, agree, draw_facts, grammar, is_heldout_choice, siblings, write
from .topic_texts import (
    frames_of,
    noised,
    passage,
    related_pairs,
    search_words,
    topic_text,
    topic_words,
    topics,
    word_pair,
    word_text,
)
from .wordpiece import SEPARATOR_ID, START_ID

WRONG = 5
_QUESTIONS, _LONG_QUESTIONS = 36, 4
_MAX_SHORT_SENTENCES, _LONG_SENTENCES = 5, (12, 38)


@dataclass(frozen=True)
class RankBatch:
    """Token rows of questions with a document each: for every question the right one, then `WRONG` wrong ones."""

    rows: list[list[int]]
    questions: int


@dataclass(frozen=True)
class _Case:
    question: Text
    right: Text
    frame: Frame | None
    facts: Facts


def _other_text(rng: random.Random, case: _Case) -> Text:
    """A text that doesn't answer: other facts, the same facts in another matter, the same topic, or any."""
    roll = rng.random()
    frame = case.frame
    if frame is not None and roll < 0.45:
        facts = draw_facts(rng, frame, False)
        kept = [table for table in facts if table in case.facts and rng.random() < 0.4]
        near = facts | {table: case.facts[table] for table in kept}
        text = write(rng, frame, facts if is_heldout_choice(frame, near) else near, frame.says, False)
    elif frame is not None and roll < 0.7:
        near_frame = rng.choice(siblings(frame) or [frame])
        text = write(rng, near_frame, draw_facts(rng, near_frame, False, case.facts), near_frame.says, False)
    elif roll < 0.85:
        text = topic_text(rng, case.question.topic)
    else:
        text = topic_text(rng, rng.choice(topics()))
    return text if text is not None else topic_text(rng, rng.choice(topics()))


def _wrong(rng: random.Random, case: _Case) -> Text:
    while True:
        text = _other_text(rng, case)
        if not agree(case.question, text) and not agree(case.right, text):
            return text


def _word_case(rng: random.Random) -> _Case:
    """Words to search for and a text that has them."""
    first, second = word_pair(rng)
    return _Case(second, first, None, {})


def _frame_case(rng: random.Random) -> _Case:
    while True:
        frame = rng.choice(grammar().frames)
        drawn = related_pairs(rng, frame, False, 1)
        if drawn:
            question, right = drawn[0]
            if rng.random() < 0.2:
                question = search_words(rng, right) or question
            facts = draw_facts(rng, frame, False) | right.parts[0][1] | question.parts[0][1]
            # A question that keeps none of its facts could be answered by any sentence of the frame.
            return _Case(question, right, grammar().frames[right.parts[0][0]], facts)


def _among_others(rng: random.Random, case: _Case, text: Text, sentences: int) -> Text:
    """The text with sentences around it that don't answer."""
    topic = text.topic if text.topic in topics() else rng.choice(topics())
    others: list[Text] = []
    while len(others) < sentences - 1:
        frame = rng.choice(frames_of(topic))
        other = passage(rng, [(frame, draw_facts(rng, frame, False))], topic)
        if not agree(case.question, other) and not agree(case.right, other):
            others.append(other)
    others.insert(rng.randrange(len(others) + 1), text)
    words = " ".join(other.words if other.words[-1:] in ".?!" else f"{other.words}." for other in others)
    return Text(words, topic, tuple(part for other in others for part in other.parts))


def _documents(rng: random.Random, case: _Case, long: bool) -> list[Text]:
    documents = [case.right, *(_wrong(rng, case) for _ in range(WRONG))]
    if case.frame is None:
        # The same number of other words of the topic, and one word right among them.
        words = case.question.parts[0][1]["words"].split()
        topic = case.question.topic
        for index in (1, 2):
            others = [word for word in topic_words(rng, topic, len(words)) if word not in words]
            kept = [rng.choice(words)] if index == 2 and len(words) > 2 and len(others) > 1 else []
            if others:
                documents[index] = word_text(rng, topic, kept + others[len(kept) :])
    if long:
        return [_among_others(rng, case, document, rng.randint(*_LONG_SENTENCES)) for document in documents]
    if rng.random() < 0.3:
        return [_among_others(rng, case, document, rng.randint(1, _MAX_SHORT_SENTENCES)) for document in documents]
    return documents


def pair_tokens(tokenizer: Tokenizer, question: str, document: str, context: int, last_separator: bool) -> list[int]:
    """[CLS] question [SEP] document [SEP], the document cut to the context; some programs leave the last one out."""
    asked, told = (row.ids for row in tokenizer.encode_batch([question, document], add_special_tokens=False))
    opening = [START_ID, *asked, SEPARATOR_ID]
    return [*opening, *told[: context - len(opening) - 1], *([SEPARATOR_ID] if last_separator else [])]


def rank_batch(tokenizer: Tokenizer, seed: int, step: int, context: int, long: bool) -> RankBatch:
    """Questions, statements and search words, with one document in six that answers; long ones fill the context."""
    rng = random.Random(f"reranker {seed} {step} {long}")
    rows = []
    questions = _LONG_QUESTIONS if long else _QUESTIONS
    for _ in range(questions):
        case = _word_case(rng) if rng.random() < 0.2 else _frame_case(rng)
        for document in _documents(rng, case, long):
            asked, told = noised(rng, case.question.words), noised(rng, document.words)
            rows.append(pair_tokens(tokenizer, asked, told, context, rng.random() < 0.8))
    return RankBatch(rows, questions)
