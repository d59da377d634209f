"""What a user may tell the demo chat model about themselves, and how it is asked back."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .words import code_word, proper_name, thing_name

_SPELLINGS = ("favourite colour", "favorite color", "favorite colour")
_THINGS_OF_MINE = (
    "favourite food|favourite animal|favourite book|favourite city|favorite place|favourite number|favorite thing|"
    "pet|favorite song|favourite word|favorite movie|lucky number|job|hobby|city|town|country|nickname|last name|"
    "first name|dream|plan|address|car|school|project"
).split("|")
_BEINGS = "dog cat bird horse friend brother sister teacher boat house school village team son daughter robot".split()
_SECRETS = (
    "secret word|secret|password|code|code word|magic word|secret code|token|pass phrase|word|number|magic number"
).split("|")


@dataclass(frozen=True)
class Topic:
    """One kind of fact; `{v}` is the value, which the asks and the absent answer don't contain."""

    key: str
    tells: tuple[str, ...]
    ack: str
    asks: tuple[str, ...]
    answer: str
    absent: str


_NAME = Topic(
    "name",
    (
        "My name is {v}.",
        "My name is {v}.",
        "My name is {v}.",
        "I am {v}.",
        "I'm {v}.",
        "Call me {v}.",
        "Hi, my name is {v}.",
        "Hello, my name is {v}.",
        "Hello! My name is {v}.",
        "Hello, I am {v}.",
        "Hi, I'm {v}.",
        "You can call me {v}.",
        "They call me {v}.",
        "My name's {v}.",
        "Please remember that my name is {v}.",
        "Remember: my name is {v}.",
    ),
    "Nice to meet you, {v}.",
    (
        "What is my name?",
        "What is my name?",
        "What is my name?",
        "What's my name?",
        "Who am I?",
        "Do you know my name?",
        "Do you remember my name?",
        "Tell me my name.",
        "Can you tell me my name?",
        "Say my name.",
        "What was my name?",
        "What was my name again?",
        "Do you know who I am?",
        "What am I called?",
    ),
    "Your name is {v}.",
    "You have not told me your name.",
)
_PLACE = Topic(
    "place",
    (
        "I live in {v}.",
        "I live in {v}.",
        "I am from {v}.",
        "I come from {v}.",
        "My home is in {v}.",
        "Remember that I live in {v}.",
    ),
    "Noted: you live in {v}.",
    (
        "Where do I live?",
        "Where do I live?",
        "Where am I from?",
        "Where is my home?",
        "Do you know where I live?",
        "Tell me where I live.",
    ),
    "You live in {v}.",
    "You have not told me where you live.",
)
_HAVING = Topic(
    "having",
    (
        "I have a {v}.",
        "I own a {v}.",
        "I bought a {v}.",
        "I have got a {v}.",
        "Remember that I have a {v}.",
        "I found a {v}.",
    ),
    "Noted: you have a {v}.",
    (
        "What do I have?",
        "What do I own?",
        "What have I got?",
        "What did I buy?",
        "Do you know what I have?",
        "Tell me what I have.",
    ),
    "You have a {v}.",
    "You have not told me what you have.",
)


def _mine(what: str) -> Topic:
    return Topic(
        what,
        (
            f"My {what} is {{v}}.",
            f"My {what} is {{v}}.",
            f"Remember that my {what} is {{v}}.",
            f"Remember: my {what} is {{v}}.",
        ),
        f"Noted: your {what} is {{v}}.",
        (
            f"What is my {what}?",
            f"What is my {what}?",
            f"What's my {what}?",
            f"Do you know my {what}?",
            f"Do you remember my {what}?",
            f"Tell me my {what}.",
            f"What was my {what}?",
        ),
        f"Your {what} is {{v}}.",
        f"You have not told me your {what}.",
    )


def _being(what: str) -> Topic:
    return Topic(
        what,
        (
            f"My {what} is called {{v}}.",
            f"My {what}'s name is {{v}}.",
            f"The name of my {what} is {{v}}.",
            f"I have a {what} called {{v}}.",
            f"I have a {what} named {{v}}.",
        ),
        f"Noted: your {what} is called {{v}}.",
        (
            f"What is my {what} called?",
            f"What is my {what}'s name?",
            f"What is the name of my {what}?",
            f"Do you know the name of my {what}?",
            f"What's my {what}'s name?",
            f"Tell me the name of my {what}.",
        ),
        f"Your {what} is called {{v}}.",
        f"You have not told me the name of your {what}.",
    )


def _secret(what: str) -> Topic:
    return Topic(
        what,
        (
            f"The {what} is {{v}}.",
            f"The {what} is {{v}}.",
            f"Remember the {what}: {{v}}.",
            f"Remember that the {what} is {{v}}.",
            f"Please remember that the {what} is {{v}}.",
            f"Please remember this: the {what} is {{v}}.",
        ),
        f"Noted: the {what} is {{v}}.",
        (
            f"What is the {what}?",
            f"What is the {what}?",
            f"What's the {what}?",
            f"Do you remember the {what}?",
            f"Do you know the {what}?",
            f"Tell me the {what}.",
            f"What was the {what}?",
        ),
        f"The {what} is {{v}}.",
        f"You have not told me the {what}.",
    )


def random_topic(rng: random.Random) -> Topic:
    """A kind of fact, names first of all."""
    roll = rng.random()
    if roll < 0.34:
        return _NAME
    if roll < 0.46:
        return _mine(rng.choice(_SPELLINGS))
    if roll < 0.56:
        return _PLACE
    if roll < 0.66:
        return _HAVING
    if roll < 0.78:
        return _being(rng.choice(_BEINGS))
    if roll < 0.9:
        return _secret(rng.choice(_SECRETS))
    return _mine(rng.choice(_THINGS_OF_MINE))


def random_value(rng: random.Random, topic: Topic, heldout: bool) -> str:
    """A value that fits the topic; made up, so that it can only be copied."""
    if topic.key in ("name", "place") or topic.key in _BEINGS:
        return proper_name(rng, heldout)
    if topic.key in _SECRETS:
        return code_word(rng, heldout)
    if topic.key == "having":
        return thing_name(rng, heldout)
    return rng.choice((thing_name, thing_name, proper_name, code_word))(rng, heldout)
