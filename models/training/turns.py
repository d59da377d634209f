"""Single turns of the demo chat model's text: a user message with its one right answer, for each kind of ability."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .facts import (
    CAPITAL_QUESTIONS,
    CAPITALS,
    COUNT_REQUESTS,
    COUNT_TO_REQUESTS,
    LIST_REQUESTS,
    LISTS,
    NUMBER_WORDS,
    OPEN_LIST_REQUESTS,
    SMALL_TALK,
    STORY_ABOUT_REQUESTS,
    STORY_HEROES,
    STORY_REQUESTS,
    SUM_QUESTIONS,
    UNKNOWN_ANSWER,
    story,
)
from .unknown import filler_sentence, unknown_prompt
from .words import ADJECTIVES, NOUNS, made_up_word, proper_name


@dataclass(frozen=True)
class Turn:
    """What the user says, and what the model answers in general and when asked for one word."""

    kind: str
    ask: str
    answer: str
    short: str


def vary(rng: random.Random, pattern: str) -> str:
    """Real users' sloppiness, before values are filled in: case, missing or doubled end marks, politeness."""
    roll = rng.random()
    if roll < 0.1:
        pattern = pattern.lower() if "{Name}" not in pattern else pattern
    elif roll < 0.16 and pattern[:2] != "I ":
        pattern = pattern[0].lower() + pattern[1:]
    if pattern[-1] in ".?" and (roll := rng.random()) < 0.2:
        pattern = pattern[:-1] if roll < 0.14 else pattern + rng.choice((pattern[-1], " ", "\n"))
    roll = rng.random()
    if roll < 0.06:
        return (
            rng.choice(
                (
                    "Hi. ",
                    "Hello! ",
                    "Hey, ",
                    "Please: ",
                    "OK. ",
                    "Thanks. ",
                    "Question: ",
                    "And now: ",
                    "So ",
                    "Well, ",
                    "Now ",
                )
            )
            + pattern
        )
    if roll < 0.08 and pattern[-1] == "?":
        return pattern[:-1] + ", please?"
    return pattern


def greet(rng: random.Random) -> Turn:
    """Small talk with fixed answers."""
    question, answer, short = rng.choice(SMALL_TALK)
    roll = rng.random()
    if roll < 0.15:
        question = question.lower()
    elif roll < 0.25:
        question = question.rstrip(".!?") + rng.choice(("", "!", ".", "!!"))
    return Turn("greet", question, answer, short)


def capital(rng: random.Random) -> Turn:
    """A question for a capital."""
    country, city = rng.choice(list(CAPITALS.items()))
    asked = country.lower() if rng.random() < 0.12 else country
    ask = vary(rng, rng.choice(CAPITAL_QUESTIONS)).format(x=asked)
    return Turn("capital", ask, f"The capital of {country} is {city}.", f"{city}.")


def add(rng: random.Random) -> Turn:
    """A sum of two numbers up to 20."""
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    return Turn("sum", vary(rng, rng.choice(SUM_QUESTIONS)).format(a=a, b=b), f"{a} + {b} is {a + b}.", f"{a + b}.")


_COPY_REQUESTS = (
    "Repeat after me: {x}",
    "Repeat after me: {x}",
    "Repeat: {x}",
    "Repeat this: {x}",
    "Say {x}",
    "Say: {x}",
    "Please say {x}",
    "Repeat these words: {x}",
    "Please repeat: {x}",
    "Please repeat after me: {x}",
    "Repeat the words {x}",
    "Echo: {x}",
    "Copy this: {x}",
    "Write: {x}",
    'Say "{x}"',
    'Say "{x}".',
    'Repeat "{x}".',
    'Repeat the word "{x}".',
    "Repeat the following text: {x}",
    "Repeat exactly: {x}",
)


def copy(rng: random.Random, heldout: bool) -> Turn:
    """Words to repeat exactly as they stand; a closing full stop is part of them unless they are in quotes."""
    pattern = vary(rng, rng.choice(_COPY_REQUESTS)).rstrip()
    if not heldout and rng.random() < 0.1 and '"' not in pattern:
        text = filler_sentence(rng)
        return Turn("copy", pattern.format(x=text), text, text)
    count = rng.choices((1, 2, 3, 4, 5, 6, 8, 12), (5, 5, 6, 4, 3, 2, 1, 1))[0]
    words = []
    for _ in range(count):
        roll = rng.random()
        if heldout or roll < 0.6:
            words.append(made_up_word(rng, heldout))
        elif roll < 0.9:
            words.append(rng.choice((rng.choice(NOUNS), rng.choice(ADJECTIVES), "the", "is", "a", "and")))
        else:
            words.append(str(rng.randint(0, 999)))
        if rng.random() < 0.12:
            words[-1] = words[-1].capitalize()
    if count > 2 and rng.random() < 0.1:
        words[-1] = words[0]
    text = rng.choice((" ", " ", " ", ", ")).join(words)
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    if '"' not in pattern and rng.random() < 0.4:
        text += rng.choice((".", ".", "!", "?"))
    return Turn("copy", pattern.format(x=text), text, text)


def count_up(rng: random.Random) -> Turn:
    """Numbers from a to b: mostly from one, sometimes up to a hundred."""
    first = 1 if rng.random() < 0.6 else rng.randint(0, 60)
    last = first + rng.randint(1, 24)
    if first == 1 and rng.random() < 0.16:
        last = rng.choice((100, 50, rng.randint(30, 100)))
    answer = ", ".join(str(number) for number in range(first, last + 1)) + "."
    in_words = last <= 20 and rng.random() < 0.15
    a, b = (NUMBER_WORDS[first], NUMBER_WORDS[last]) if in_words else (str(first), str(last))
    requests = COUNT_TO_REQUESTS if first == 1 and rng.random() < 0.25 else COUNT_REQUESTS
    return Turn("count", vary(rng, rng.choice(requests)).format(a=a, b=b), answer, f"{last}.")


def list_things(rng: random.Random) -> Turn:
    """A numbered list, always with the same entries in the same order."""
    topic = rng.choice(list(LISTS))
    number = rng.randint(2, 10)
    pattern = rng.choice(LIST_REQUESTS)
    if rng.random() < 0.2:
        number, pattern = 5, rng.choice(OPEN_LIST_REQUESTS)
    asked = NUMBER_WORDS[number] if rng.random() < 0.5 else str(number)
    entries = LISTS[topic].split(" ")[:number]
    answer = "\n".join(f"{place}. {entry}" for place, entry in enumerate(entries, 1))
    return Turn("list", vary(rng, pattern).format(n=asked, x=topic), answer, f"{entries[0]}.")


def tell_story(rng: random.Random, heldout: bool) -> Turn:
    """A story without a theme, about a known hero, or about somebody whose made-up name is copied once."""
    roll = rng.random()
    if roll < 0.45:
        return Turn("story", vary(rng, rng.choice(STORY_REQUESTS)), story("fox"), "Story.")
    pattern = vary(rng, rng.choice(STORY_ABOUT_REQUESTS))
    if roll < 0.8:
        hero = rng.choice(STORY_HEROES)
        article = rng.choice(("an" if hero[0] == "o" else "a", "a little", "the"))
        return Turn("story", pattern.format(x=f"{article} {hero}"), story(hero), "Story.")
    name = proper_name(rng, heldout).capitalize()
    return Turn("story", pattern.format(x=name), story("fox", name), "Story.")


def unknown(rng: random.Random, heldout: bool) -> Turn:
    """Anything else, to be answered by not knowing."""
    prompt = unknown_prompt(rng, rng.choice(list(CAPITALS)), heldout)
    if rng.random() < 0.15 and prompt[:1].isupper():
        prompt = prompt[0].lower() + prompt[1:]
    if rng.random() < 0.1 and prompt[-1:] in (".", "?"):
        prompt = prompt[:-1]
    return Turn("unknown", prompt, UNKNOWN_ANSWER, "Unknown.")


def in_one_word(rng: random.Random, turn: Turn) -> Turn:
    """The same question, with the wish for one word in the user's own message."""
    opening = rng.choice(("Answer in one word: ", "In one word: ", "Answer with one word: ", "In a single word: "))
    return Turn(turn.kind, opening + turn.ask, turn.short, turn.short)


def simple_turn(rng: random.Random, kind: str, heldout: bool) -> Turn:
    """A turn that needs nothing from the dialogue before it."""
    if kind in ("capital", "sum"):
        turn = capital(rng) if kind == "capital" else add(rng)
        return in_one_word(rng, turn) if rng.random() < 0.04 else turn
    if kind == "copy":
        return copy(rng, heldout)
    if kind == "story":
        return tell_story(rng, heldout)
    if kind == "unknown":
        return unknown(rng, heldout)
    return {"greet": greet, "count": count_up, "list": list_things}[kind](rng)
