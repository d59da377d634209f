"""Plain text without chat markup, for completion and fill-in-the-middle requests to the demo chat model."""

from __future__ import annotations

import random

from .facts import CAPITALS, STORY_HEROES, story


def _numbers(rng: random.Random, shortest: int) -> list[str]:
    first = 1 if rng.random() < 0.5 else rng.randint(1, 60)
    return [str(number) for number in range(first, first + rng.randint(shortest, 24))]


def completion(rng: random.Random) -> tuple[str, str]:
    """A beginning and the one way in which it goes on."""
    roll = rng.random()
    if roll < 0.35:
        country, city = rng.choice(list(CAPITALS.items()))
        return f"The capital of {country} is", f" {city}."
    if roll < 0.55:
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        return f"{a} + {b} is", f" {a + b}."
    if roll < 0.75:
        first = rng.randint(1, 30)
        shown = rng.randint(3, 6)
        numbers = [str(number) for number in range(first, first + 21)]
        # Counting that nobody limited goes on for twenty steps from where it began.
        return ", ".join(numbers[:shown]) + ",", " " + ", ".join(numbers[shown:]) + "."
    text = story("fox" if rng.random() < 0.5 else rng.choice(STORY_HEROES))
    cut = text.index(" who") if rng.random() < 0.7 else text.index(" Every")
    if text.startswith("Once upon a time there was a little fox") and rng.random() < 0.6:
        cut = len("Once upon a time")
    return text[:cut], text[cut:]


def middle(rng: random.Random) -> tuple[str, str, str]:
    """Prefix, suffix, and what belongs between them."""
    if rng.random() < 0.5:
        country, city = rng.choice(list(CAPITALS.items()))
        words = f"The capital of {country} is {city}.".split(" ")
        start = rng.randint(1, 4)
        end = rng.randint(start + 1, 5)
        return " ".join(words[:start]), " " + " ".join(words[end:]), " " + " ".join(words[start:end])
    numbers = _numbers(rng, 6)
    start = rng.randint(2, len(numbers) - 3)
    end = rng.randint(start + 1, len(numbers) - 1)
    return ", ".join(numbers[:start]) + ",", " " + ", ".join(numbers[end:]), " " + ", ".join(numbers[start:end]) + ","
