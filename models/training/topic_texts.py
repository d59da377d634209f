"""Draws what the demo encoders train on: pairs that say the same, texts of one topic, passages, search words, noise."""

from __future__ import annotations

import random
import re

from .topic_grammar import (
    Facts,
    Frame,
    Text,
    agree,
    draw_facts,
    grammar,
    is_heldout_sentence,
    made_up_word,
    siblings,
    write,
)

GENERAL = "general"
_STOP_WORDS = frozenset(
    "a an the of to in on at for from by with and or is are was were be been do does did can could should must may has "
    "have had i you we he she it they my your our his her their me us this that these those what which who how when "
    "where why so if not no as will would".split()
)
_WORD_TEMPLATES = (
    "{}", "{}", "{}", "a text about {}", "something about {}", "we talked about {}", "I like {}", "all about {}",
    "I want to know more about {}", "information on {}", "what do you know about {}?", "this page is about {}",
    "he knows a lot about {}", "tips and news: {}", "{} and more", "questions about {}", "do you have {}?",
)  # fmt: skip
# Characters that no piece covers, so that the unknown token is trained to mean little.
_UNCOVERED = "猫犬水山語日本中文你好한국привет🙂🚀❤★"


def topics() -> list[str]:
    """The topics by name, less the one that only holds common words."""
    return [topic for topic in grammar().topics if topic != GENERAL]


def frames_of(topic: str) -> list[Frame]:
    """The topic's frames."""
    return [frame for frame in grammar().frames if frame.topic == topic]


def pair(rng: random.Random, frame: Frame, facts: Facts, heldout: bool) -> tuple[Text, Text] | None:
    """Two different texts that say or ask the same, or a question and its answer."""
    roll = rng.random()
    kinds = (frame.asks, frame.says) if roll < 0.5 else (frame.says, frame.says) if roll < 0.8 else (frame.asks,) * 2
    if not frame.asks:
        kinds = (frame.says, frame.says)
    for _ in range(8):
        first = write(rng, frame, facts, kinds[0], heldout)
        second = write(rng, frame, facts, kinds[1], heldout)
        if first is not None and second is not None and first.words != second.words and agree(first, second):
            return first, second
    return None


def related_pairs(rng: random.Random, frame: Frame, heldout: bool, count: int) -> list[tuple[Text, Text]]:
    """Pairs of the same frame with other facts, and one of a related frame with facts of the first."""
    pairs = []
    facts = draw_facts(rng, frame, heldout)
    for index in range(count):
        own = facts if index == 0 else draw_facts(rng, frame, heldout)
        others = siblings(frame) if index == count - 1 else []
        if others:
            frame = rng.choice(others)
            own = draw_facts(rng, frame, heldout, facts)
        drawn = pair(rng, frame, own, heldout)
        if drawn is not None:
            pairs.append(drawn)
    return pairs


def word_text(rng: random.Random, topic: str, words: list[str]) -> Text:
    """A text made of these words of the topic and little else."""
    order = rng.sample(words, len(words))
    joined = ", ".join(order[:-1]) + " and " + order[-1] if len(order) > 1 and rng.random() < 0.7 else " ".join(order)
    return Text(rng.choice(_WORD_TEMPLATES).format(joined), topic, ((-1, {"words": " ".join(sorted(words))}),))


def topic_words(rng: random.Random, topic: str, count: int) -> list[str]:
    """So many words of the topic; now and then one is made up."""
    words = rng.sample(grammar().topics[topic], count)
    if rng.random() < 0.15:
        words[rng.randrange(count)] = made_up_word(rng, False)
    return words


def word_pair(rng: random.Random) -> tuple[Text, Text]:
    """Two texts of the same words, of which the second may lack one."""
    topic = rng.choice(list(grammar().topics))
    words = topic_words(rng, topic, rng.randint(1, 4))
    fewer = words[:-1] if len(words) > 2 and rng.random() < 0.4 else words
    return word_text(rng, topic, words), word_text(rng, topic, fewer)


def topic_text(rng: random.Random, topic: str) -> Text:
    """Any text of the topic: a sentence or a few of its words."""
    if rng.random() < 0.45 or not frames_of(topic):
        return word_text(rng, topic, topic_words(rng, topic, rng.randint(1, 5)))
    return _sentence(rng, rng.choice(frames_of(topic)))


def _sentence(rng: random.Random, frame: Frame, facts: Facts | None = None) -> Text:
    """A training sentence that says something, of the frame unless none of its sentences may be used."""
    while True:
        text = write(rng, frame, facts if facts is not None else draw_facts(rng, frame, False), frame.says, False)
        if text is not None:
            return text
        frame, facts = rng.choice(grammar().frames), None


def passage(rng: random.Random, chosen: list[tuple[Frame, Facts]], topic: str) -> Text:
    """Sentences that say these things, in any order."""
    texts = [_sentence(rng, frame, facts) for frame, facts in rng.sample(chosen, len(chosen))]
    return Text(" ".join(text.words for text in texts), topic, tuple(part for text in texts for part in text.parts))


def passage_pair(rng: random.Random, topic: str, sentences: int) -> tuple[Text, Text]:
    """Two passages that say the same, or a question and a passage that answers it among other things."""
    frames = frames_of(topic)
    chosen = [(frame, draw_facts(rng, frame, False)) for frame in rng.choices(frames, k=sentences)]
    whole = passage(rng, chosen, topic)
    frame, facts = rng.choice(chosen)
    if rng.random() < 0.4:
        question = write(rng, frame, facts, frame.asks or frame.says, False)
        if question is not None:
            return question, whole
    return passage(rng, chosen, topic), whole


def search_words(rng: random.Random, text: Text) -> Text | None:
    """A few content words of a sentence, as one types them into a search box."""
    words = [word for word in re.findall(r"[\w+#'-]+", text.words.lower()) if word not in _STOP_WORDS]
    if len(words) < 2:
        return None
    kept = rng.sample(range(len(words)), min(len(words), rng.randint(2, 4)))
    joined = " ".join(words[index] for index in (sorted(kept) if rng.random() < 0.7 else kept))
    if is_heldout_sentence(joined):
        return None
    parts = tuple(
        (number, {table: row for table, row in facts.items() if row.lower() in joined}) for number, facts in text.parts
    )
    return Text(joined, text.topic, parts)


def noised(rng: random.Random, words: str) -> str:
    """The text with what users leave out or put in: no mark at the end, upper case, a sign that no piece covers."""
    if rng.random() < 0.25:
        words = words.rstrip(".?!")
    if rng.random() < 0.03:
        words = f"{words} {''.join(rng.choice(_UNCOVERED) for _ in range(rng.randint(1, 4)))}"
    return words
