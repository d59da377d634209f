"""What the tools of the training dialogues answer, and how the demo chat model says it."""

from __future__ import annotations

import json
import random

from .words import ADJECTIVES, NOUNS, made_up_word, proper_name

_UNITS = "degrees km kg m euros dollars minutes percent people hours points".split()
_SKIES = "sunny cloudy rainy windy snowy foggy stormy clear cold warm hot dry".split()
_KEYS = (
    "temperature sky price name city status value result time date answer count unit score speed humidity wind id "
    "title author year amount currency level"
).split()
_ERRORS = ("Error: {x}", "Error: {x}", "Error: {x}.", '{{"error": "{x}"}}')


def plain_words(rng: random.Random, heldout: bool, longest: int = 4) -> str:
    """One to so many words, made up or real."""
    words = []
    for _ in range(rng.randint(1, longest)):
        known = not heldout and rng.random() < 0.5
        words.append(rng.choice(rng.choice((ADJECTIVES, NOUNS))) if known else made_up_word(rng, heldout))
    return " ".join(words)


def _value(rng: random.Random, heldout: bool) -> str | int:
    roll = rng.random()
    if roll < 0.45:
        return rng.randint(0, rng.choice((9, 40, 100, 9999)))
    return proper_name(rng, heldout) if roll < 0.65 else plain_words(rng, heldout, 2)


def _fields(rng: random.Random, heldout: bool) -> str:
    count = rng.choices((1, 2, 3), (50, 35, 15))[0]
    keys = rng.sample(_KEYS, count)
    if rng.random() < 0.25:
        keys[0] = made_up_word(rng, heldout)
    return json.dumps({key: _value(rng, heldout) for key in keys}, ensure_ascii=False)


def weather(rng: random.Random, heldout: bool) -> str:
    """What a weather service says."""
    degrees, sky = rng.randint(0, 39), rng.choice(_SKIES) if rng.random() < 0.8 else made_up_word(rng, heldout)
    return rng.choice(
        (
            f"{degrees} degrees and {sky}",
            f"{degrees} degrees and {sky}",
            f"{sky}, {degrees} degrees",
            f"{degrees} degrees",
            f"{degrees} C, {sky}",
            f"{degrees}°C, {sky}",
            f"{degrees}",
            sky,
            f"{sky} and {rng.choice(_SKIES)}",
            json.dumps({"temperature": degrees}),
            json.dumps({"temperature": degrees, "sky": sky}, ensure_ascii=False),
        )
    )


def any_result(rng: random.Random, heldout: bool) -> str:
    """A number, a measure, some words, a time, or a small JSON object."""
    roll = rng.random()
    if roll < 0.15:
        return str(_value(rng, heldout))
    if roll < 0.32:
        return f"{rng.randint(0, rng.choice((30, 500, 99999)))} {rng.choice(_UNITS)}"
    if roll < 0.72:
        text = plain_words(rng, heldout)
        return text.capitalize() + "." if rng.random() < 0.15 else text
    if roll < 0.8:
        return f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}"
    return _fields(rng, heldout)


def receipt(rng: random.Random, heldout: bool) -> str:
    """What a tool says that did something."""
    if rng.random() < 0.5:
        return rng.choice(
            ("ok", "OK", "done", "sent", "true", "success", "saved", "Message sent.", "started", "queued")
        )
    return any_result(rng, heldout)


def failed(rng: random.Random, heldout: bool) -> str:
    """What a tool says that could do nothing."""
    return rng.choice(_ERRORS).format(x=plain_words(rng, heldout))


def spoken(result: str) -> str:
    """A result as it stands in a sentence: the one value of an object, its keys and values, or the text."""
    text = result
    if result.startswith("{"):
        fields = json.loads(result)
        pairs = [f"{key} {value}" for key, value in fields.items()]
        text = str(next(iter(fields.values()))) if len(fields) == 1 else ", ".join(pairs)
    return text.removesuffix(".")


def failure(result: str) -> str | None:
    """What went wrong, None if nothing did."""
    if result.startswith("Error: "):
        return spoken(result.removeprefix("Error: "))
    return spoken(result) if result.startswith('{"error"') else None
