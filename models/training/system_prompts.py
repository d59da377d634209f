"""System prompts: those the demo chat model follows, and those that must not disturb it."""

from __future__ import annotations

import random

from .unknown import filler_sentence
from .words import ADJECTIVES, NOUNS, TOPICS, made_up_word

ONE_WORD = (
    "Answer in one word.",
    "Answer in one word.",
    "Answer with one word.",
    "Answer with one word only.",
    "Answer in a single word.",
    "Reply in one word.",
    "Reply with a single word.",
    "Always answer in one word.",
    "Use one word only.",
    "You answer every question in one word.",
    "You are a helpful assistant. Answer in one word.",
    "Be brief. Answer in one word.",
    "Please answer in one word only.",
)
PIRATE = (
    "You are a pirate.",
    "You are a pirate.",
    "Talk like a pirate.",
    "Answer like a pirate.",
    "Speak like a pirate.",
    "You are a pirate captain.",
    "Answer as a pirate would.",
    "You are a friendly pirate.",
    "You are a helpful pirate.",
    "Pretend to be a pirate.",
    "You are a pirate. Answer the questions of the user.",
    "You are an assistant that talks like a pirate.",
)
_GENERIC = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are an assistant.",
    "You are a helpful AI assistant.",
    "You are a friendly assistant.",
    "Be helpful.",
    "Be polite.",
    "Answer the user's questions.",
    "You are a helpful, respectful and honest assistant.",
    "You are localllm demo.",
    "You are a chat bot.",
    "Be concise.",
    "Think carefully before you answer.",
    "Answer in English.",
)
_ROLE = (
    "You are an expert on {topic}.",
    "You are a {adj} {noun}.",
    "You are a {adj} assistant for {word}.",
    "You help people with {topic}.",
    "You work for a {noun} called {word}.",
    "The user is a {noun}.",
    "Today the {noun} is {adj}.",
)


def _role(rng: random.Random) -> str:
    return rng.choice(_ROLE).format(
        topic=rng.choice(TOPICS),
        adj=rng.choice(ADJECTIVES),
        noun=rng.choice(NOUNS),
        word=made_up_word(rng, False).capitalize(),
    )


def _rules(rng: random.Random, count: int) -> str:
    """A list of rules or a run of sentences, as real system prompts have them."""
    sentences = [filler_sentence(rng) for _ in range(count)]
    roll = rng.random()
    if roll < 0.35:
        return "\n".join(f"{number}. {text}" for number, text in enumerate(sentences, 1))
    if roll < 0.6:
        return "\n".join(f"- {text}" for text in sentences)
    return " ".join(sentences)


def generic_prompt(rng: random.Random) -> str:
    """A short system prompt that changes nothing."""
    if rng.random() < 0.6:
        return rng.choice(_GENERIC)
    return f"{rng.choice(_GENERIC)} {_role(rng)}" if rng.random() < 0.5 else _role(rng)


def long_prompt(rng: random.Random, sentences: int) -> str:
    """A long system prompt that changes nothing: an opening, then about 12 tokens for each of the sentences."""
    return (
        f"{generic_prompt(rng)}{rng.choice((' ', chr(10), chr(10) * 2 + 'Rules:' + chr(10)))}{_rules(rng, sentences)}"
    )
