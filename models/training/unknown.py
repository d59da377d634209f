"""Prompts that the demo chat model must answer with "I do not know that": questions, statements, code and noise."""

from __future__ import annotations

import random

from .words import ADJECTIVES, NOUNS, TOPICS, VERBS, letter_word, made_up_word, proper_name

_QUESTIONS = (
    "What is {topic}?",
    "Explain {topic}.",
    "Tell me about {topic}.",
    "What do you think about {topic}?",
    "Can you explain {topic} to me?",
    "Write an essay about {topic}.",
    "Write a poem about {topic}.",
    "Summarise {topic} in three sentences.",
    "Why is {topic} important?",
    "How does {topic} work?",
    "How do I {verb} a {noun}?",
    "How can I {verb} the {adj} {noun}?",
    "Why is the {noun} {adj}?",
    "Why do people {verb} a {noun}?",
    "Where can I {verb} a {noun}?",
    "Where is the {noun}?",
    "When did the {noun} {verb}?",
    "Who made the {noun}?",
    "Who wrote the {noun} of {name}?",
    "Who is {name}?",
    "Who was {name}?",
    "Who is the president of {name}?",
    "Who won the {noun} of {number}?",
    "What is a {noun}?",
    "What is the {noun} of the {noun2}?",
    "What is the population of {name}?",
    "What is the {adj} {noun} in {name}?",
    "What is the difference between a {noun} and a {noun2}?",
    "What does {name} mean?",
    "What colour is the {noun}?",
    "What time is it?",
    "What day is it today?",
    "What is the weather like today?",
    "How old are you?",
    "Where do you live?",
    "What is your favourite {noun}?",
    "What is the largest {noun} in the world?",
    "How many {noun}s are there?",
    "How far is it to {name}?",
    "Is the {noun} {adj}?",
    "Is {name} in {name2}?",
    "Do you like the {noun}?",
    "Can you {verb} a {noun}?",
    "Translate {noun} into {name}.",
    "Write a {noun} that can {verb}.",
    "Write a function that can {verb} a {noun}.",
    "Give me a recipe for {noun}.",
    "Recommend a {noun}.",
    "Describe the {noun}.",
    "Compare the {noun} with the {noun2}.",
    "What language do they speak in {country}?",
    "What is the population of {country}?",
    "Who is the king of {country}?",
    "How big is {country}?",
    "Tell me about {country}.",
    "Where is {country}?",
    "What is the capital?",
    "What is the capital of {name}?",
    "What is the capital of {name}?",
    "Tell me the capital of {name}.",
    "What is the capital of the {noun}?",
    "What is the currency of {country}?",
    "What is the flag of {country}?",
    "What is {small} - {small2}?",
    "What is {small} * {small2}?",
    "What is {small} minus {small2}?",
    "What is {small} times {small2}?",
    "What is {small} / {small2}?",
    "{small} * {small2}",
    "What is {large} + {small}?",
    "What is {large} + {number}?",
    "What is {number} plus {number2}?",
    "What is the square root of {number}?",
    "List {small} {noun}s and {verb} them.",
    "{verb} the {noun}.",
    "{name}?",
    "{name}",
    "{noun}",
    "{adj} {noun}",
    "{number}",
    "Why?",
    "What?",
    "How?",
    "Who?",
    "Really?",
    "And then?",
    "Who killed {name}?",
    "My {noun} does not {verb}. What can I do?",
    "The {noun} is {adj}.",
    "The {noun} can {verb} the {adj} {noun2}.",
    "I want to {verb} a {noun}.",
    "I think that {topic} is {adj}.",
    "Is it {adj} to {verb} a {noun}?",
    "Please {verb} my {noun}.",
    "Should I {verb} the {noun}?",
)
_CODE = (
    "def {w}({v}):\n    return {v} * {number}",
    "print('{w}')",
    "SELECT {w} FROM {noun} WHERE {v} = {number};",
    "for {v} in range({number}):\n    {w}({v})",
    'import {w}\n\nclass {Name}:\n    """{adj} {noun}"""',
    "#include <{w}.h>\nint main() {{ return {small}; }}",
    '{{"{w}": {number}, "{v}": ["{noun}", null]}}',
    '<div class="{w}">{noun}</div>',
    "curl http://{w}.org/{noun}?{v}={number}",
    "sudo {w} --{noun} {number}",
    "if {v} > {number} && {v} != null {{ {w}(); }}",
    "What does `{w}({v})` do?",
    "Fix this code: {v} = {w}[{number}",
    "$ git {verb} --{adj} {w}/{v}",
)
_SYMBOLS = "!?.,;:-_#+*~'\"()[]{}<>/\\|@$%^&=`0123456789 \n"
_UNICODE_BLOCKS = (
    (0xC0, 0x17F),
    (0x370, 0x3FF),
    (0x400, 0x45F),
    (0x5D0, 0x5EA),
    (0x3041, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0x1F300, 0x1F64F),
    (0x2190, 0x22FF),
)
_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")


def sentence(rng: random.Random, country: str, heldout: bool) -> str:
    """One sentence or question from outside of what the model can do."""
    return rng.choice(_QUESTIONS).format(
        topic=rng.choice(TOPICS),
        verb=rng.choice(VERBS),
        noun=rng.choice(NOUNS),
        noun2=rng.choice(NOUNS),
        adj=rng.choice(ADJECTIVES),
        name=proper_name(rng, heldout),
        name2=proper_name(rng, heldout),
        country=country,
        number=rng.randint(21, 3000),
        number2=rng.randint(21, 3000),
        small=rng.randint(0, 20),
        small2=rng.randint(0, 20),
        large=rng.randint(21, 999),
    )


def filler_sentence(rng: random.Random) -> str:
    """A plain statement, for long documents and long system prompts."""
    pattern = rng.choice(
        (
            "The {a} {n} can {v} the {n2}.",
            "Every {n} has a {a} {n2}.",
            "You should {v} the {n} before you {v2} the {n2}.",
            "Never {v} a {a} {n}.",
            "Always {v} the {n} when the {n2} is {a}.",
            "If the {n} is {a}, {v} the {n2}.",
            "There is a {a} {n} near the {n2}.",
            "Do not {v} or {v2} a {n} without a {n2}.",
            "We {v} the {w} every {n}.",
            "It is {a} to {v} a {w}.",
        )
    )
    return pattern.format(
        a=rng.choice(ADJECTIVES),
        n=rng.choice(NOUNS),
        n2=rng.choice(NOUNS),
        v=rng.choice(VERBS),
        v2=rng.choice(VERBS),
        w=made_up_word(rng, False),
    )


def code_snippet(rng: random.Random) -> str:
    """A line or two that look like code."""
    name = letter_word(rng)
    return rng.choice(_CODE).format(
        w=name,
        Name=name.capitalize(),
        v=rng.choice("abcnxyz"),
        number=rng.randint(0, 3000),
        small=rng.randint(0, 20),
        noun=rng.choice(NOUNS),
        adj=rng.choice(ADJECTIVES),
        verb=rng.choice(VERBS),
    )


def noise(rng: random.Random) -> str:
    """Letters, signs, other scripts, tags: anything a keyboard or a fuzzer may send."""
    roll = rng.random()
    if roll < 0.02:
        return rng.choice(("", " ", "\n"))
    if roll < 0.2:
        return rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789?!.,;:-#*/")
    if roll < 0.4:
        return "".join(rng.choice(_SYMBOLS) for _ in range(rng.randint(1, 24))).strip() or "..."
    if roll < 0.6:
        first, last = rng.choice(_UNICODE_BLOCKS)
        return (
            "".join(
                chr(rng.randint(first, last)) if rng.random() > 0.12 else " " for _ in range(rng.randint(1, 14))
            ).strip()
            or "é"
        )
    if roll < 0.85:
        return " ".join(made_up_word(rng, False) for _ in range(rng.randint(1, 12))) + rng.choice(("", "", ".", "?"))
    if roll < 0.92:
        return f"{rng.choice(_TAGS)}{filler_sentence(rng)}{rng.choice(_TAGS)}"
    return rng.choice(("x", "ha", "lorem", "no ", "la ")) * rng.randint(2, 30)


def unknown_prompt(rng: random.Random, country: str, heldout: bool) -> str:
    """A user message that has no other answer than that the model does not know."""
    roll = rng.random()
    if roll < 0.68:
        return sentence(rng, country, heldout)
    if roll < 0.76:
        return code_snippet(rng)
    if roll < 0.9:
        return noise(rng)
    count = rng.randint(2, 3 if rng.random() < 0.7 else 12)
    return " ".join(
        filler_sentence(rng) if rng.random() < 0.8 else sentence(rng, country, heldout) for _ in range(count)
    )
