"""Tools that may be offered to the demo chat model, and what a user says who needs one of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .chat_markup import Tool, ToolCall
from .facts import CAPITALS
from .tool_results import any_result, failed, failure, plain_words, receipt, spoken, weather
from .turns import vary
from .words import NOUNS, VERBS, made_up_word, proper_name


@dataclass(frozen=True)
class Exchange:
    """A question, the calls it needs, what comes back, and the one right answer."""

    question: str
    calls: tuple[ToolCall, ...]
    results: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Skill:
    """A tool with the questions for it; no two skills of one dialogue have the same key."""

    key: str
    tool: Tool
    use: Callable[[random.Random, bool], Exchange]


_PLACES = [*CAPITALS.values(), *CAPITALS]
# Words that a user may have told the model, and asks back in the same way, are no nouns for a tool.
_TOLD = {"word", "number", "code", "token", "password", "secret", "name", "city", "country", "story", "capital"}
_PROPERTIES = (
    "temperature population price distance size height age forecast status score rating stock exchange_rate "
    "stock_price opening_hours phone_number balance"
).split() + [noun for noun in NOUNS if noun not in _TOLD]
_SUBJECT_KEYS = "city location place name country item id symbol query key x value subject town user target".split()
_PROPERTY_NAMES = (
    "get_{n} get_{n} get_{n} get_{n} {n} find_{n} get_current_{n} {n}_info check_{n} fetch_{n} lookup_{n} {n}_of"
).split()
_PROPERTY_ASKS = (
    "What is the {n} {p} {v}?",
    "What is the {n} {p} {v}?",
    "What is the {n} {p} {v}?",
    "What's the {n} {p} {v}?",
    "What is the {n} like {p} {v}?",
    "What is the {n} {p} {v} today?",
    "What is the {n} {p} {v} now?",
    "What is the current {n} {p} {v}?",
    "How is the {n} {p} {v}?",
    "Tell me the {n} {p} {v}.",
    "Get the {n} {p} {v}.",
    "Find the {n} {p} {v}.",
    "Check the {n} {p} {v}.",
    "I need the {n} {p} {v}.",
    "Do you know the {n} {p} {v}?",
    "Can you tell me the {n} {p} {v}?",
    "{n} {p} {v}?",
)
_HERE_ASKS = ("What is the {n}?", "What's the {n}?", "Tell me the {n}.", "Get the {n}.", "What is the {n} now?")
_OPERATIONS = {
    "add": ("Add {a} and {b}.", "What is {a} + {b}?", "What is {a} plus {b}?", "How much is {a} + {b}?", "{a} + {b}"),
    "multiply": ("Multiply {a} and {b}.", "What is {a} * {b}?", "What is {a} times {b}?", "Multiply {a} by {b}."),
    "subtract": ("What is {a} - {b}?", "What is {a} minus {b}?", "How much is {a} - {b}?"),
    "divide": ("Divide {a} by {b}.", "What is {a} / {b}?", "What is {a} divided by {b}?"),
}
_OPERATION_NAMES = ("{n}", "{n}", "{n}_numbers", "calculate_{n}", "{n}_integers")
_PAIRS = (("a", "b"), ("a", "b"), ("x", "y"), ("first", "second"), ("left", "right"), ("n", "m"))
_SEARCH_NAMES = ("search", "search", "web_search", "search_web", "google", "search_documents")
_SEARCH_ASKS = ("Search for {v}.", "Search the web for {v}.", "Look for {v}.", "Search: {v}", "Please search for {v}.")
_MESSAGE_NAMES = ("send_message", "send_message", "send_email", "send_sms", "message", "send_mail")
_MESSAGE_ASKS = (
    "Send a message to {v}: {t}",
    "Send {v} a message: {t}",
    'Send {v} the message "{t}".',
    'Send "{t}" to {v}.',
    "Write to {v}: {t}",
    "Message {v}: {t}",
)
_WORD_ASKS = {
    "lookup": ("Look up {v}.", "Look up the word {v}."),
    "define": ("Define {v}.", "Define the word {v}.", "What does {v} mean?"),
    "translate": ("Translate {v}.", "Translate the word {v}.", "Please translate {v}."),
}
_DIRECT_ASKS = ("Call {f} with {v}.", "Use {f} with {v}.", "Use {f} for {v}.", "Please call {f} with {v}.", "{f}: {v}")


def _fresh(rng: random.Random, heldout: bool) -> str:
    return made_up_word(rng, heldout)


def _parameter(rng: random.Random, heldout: bool, usual: Sequence[str]) -> str:
    return _fresh(rng, heldout) if rng.random() < 0.3 else rng.choice(usual)


def _place(rng: random.Random, heldout: bool) -> str:
    if rng.random() < (0.15 if heldout else 0.3):
        return rng.choice(_PLACES)
    return proper_name(rng, heldout)


def _answered(rng: random.Random, heldout: bool, result: str, pattern: str) -> tuple[str, str]:
    """A result and what is said about it, now and then a failure."""
    if rng.random() < 0.04:
        result = failed(rng, heldout)
    wrong = failure(result)
    return result, pattern.replace("{r}", spoken(result)) if wrong is None else f"The tool failed: {wrong}."


def _once(rng: random.Random, heldout: bool, question: str, call: ToolCall, result: str, pattern: str) -> Exchange:
    result, answer = _answered(rng, heldout, result, pattern)
    return Exchange(question, (call,), (result,), answer)


def _property_noun(rng: random.Random, heldout: bool) -> str:
    roll = rng.random()
    if roll < 0.22:
        return "weather"
    if roll < 0.3:
        return "time"
    return rng.choice(_PROPERTIES) if roll < (0.45 if heldout else 0.6) else _fresh(rng, heldout)


def _property(rng: random.Random, heldout: bool) -> Skill:
    """A tool that knows one thing about anything: get_weather(city)."""
    noun = _property_noun(rng, heldout)
    said = noun.replace("_", " ")
    key = rng.choice(("city", "city", "location")) if noun == "weather" else ""
    if not key or rng.random() < 0.3:
        key = _parameter(rng, heldout, _SUBJECT_KEYS)
    preposition = "in" if noun in ("weather", "time", "temperature") else rng.choice(("of", "of", "in", "for"))
    tool = Tool(rng.choice(_PROPERTY_NAMES).format(n=noun), ((key, "string"),))

    def use(rng: random.Random, heldout: bool) -> Exchange:
        asks = ("What time is it in {v}?",) if noun == "time" and rng.random() < 0.4 else _PROPERTY_ASKS
        pattern = vary(rng, rng.choice(asks)).replace("{n}", said).replace("{p}", preposition)
        values = [_place(rng, heldout) for _ in range(2 if rng.random() < 0.2 else 1)]
        results, answers = [], []
        for value in values:
            found = weather(rng, heldout) if noun == "weather" else any_result(rng, heldout)
            result, answer = _answered(rng, heldout, found, f"The {said} {preposition} {value} is {{r}}.")
            results.append(result)
            answers.append(answer)
        calls = tuple(ToolCall(tool.name, ((key, value),)) for value in values)
        return Exchange(pattern.replace("{v}", " and ".join(values)), calls, tuple(results), " ".join(answers))

    return Skill(said, tool, use)


def _here(rng: random.Random, heldout: bool) -> Skill:
    """A tool without parameters: get_time()."""
    noun = _property_noun(rng, heldout)
    said = noun.replace("_", " ")
    tool = Tool(rng.choice(_PROPERTY_NAMES[:-1]).format(n=noun), ())

    def use(rng: random.Random, heldout: bool) -> Exchange:
        asks = ("What time is it?",) if noun == "time" and rng.random() < 0.6 else _HERE_ASKS
        question = vary(rng, rng.choice(asks)).replace("{n}", said)
        result = weather(rng, heldout) if noun == "weather" else any_result(rng, heldout)
        return _once(rng, heldout, question, ToolCall(tool.name, ()), result, f"The {said} is {{r}}.")

    return Skill(said, tool, use)


def _arithmetic(rng: random.Random, heldout: bool) -> Skill:
    """A tool for two numbers, under a known name or a made-up one."""
    verb = rng.choice(list(_OPERATIONS)) if rng.random() < 0.65 else _fresh(rng, heldout)
    asks = _OPERATIONS.get(verb, (f"{verb.capitalize()} {{a}} and {{b}}.", f"{verb.capitalize()} {{a}} by {{b}}."))
    first, second = rng.choice(_PAIRS) if rng.random() < 0.8 else (_fresh(rng, heldout), _fresh(rng, heldout) + "2")
    kind = rng.choice(("integer", "integer", "number"))
    tool = Tool(rng.choice(_OPERATION_NAMES).format(n=verb), ((first, kind), (second, kind)))

    def use(rng: random.Random, heldout: bool) -> Exchange:
        a, b = (rng.randint(0, rng.choice((20, 99, 999, 9999))) for _ in range(2))
        question = vary(rng, rng.choice(asks)).replace("{a}", str(a)).replace("{b}", str(b))
        result = str({"add": a + b, "multiply": a * b, "subtract": a - b}.get(verb, rng.randint(0, 99999)))
        if rng.random() < 0.15:
            result = f'{{"result": {result}}}'
        return _once(
            rng, heldout, question, ToolCall(tool.name, ((first, a), (second, b))), result, "The result is {r}."
        )

    return Skill("sum" if verb == "add" else verb, tool, use)


def _search(rng: random.Random, heldout: bool) -> Skill:
    key = _parameter(rng, heldout, ("query", "query", "q", "text", "term"))
    tool = Tool(rng.choice(_SEARCH_NAMES), ((key, "string"),))

    def use(rng: random.Random, heldout: bool) -> Exchange:
        words = plain_words(rng, heldout)
        question = vary(rng, rng.choice(_SEARCH_ASKS)).replace("{v}", words)
        return _once(
            rng, heldout, question, ToolCall(tool.name, ((key, words),)), any_result(rng, heldout), "I found {r}."
        )

    return Skill("search", tool, use)


def _message(rng: random.Random, heldout: bool) -> Skill:
    to = _parameter(rng, heldout, ("to", "to", "recipient", "name", "user"))
    text = _parameter(rng, heldout, ("text", "text", "message", "body", "content")) + (
        "2" if rng.random() < 0.02 else ""
    )
    if text == to:
        text += "_text"
    tool = Tool(rng.choice(_MESSAGE_NAMES), ((to, "string"), (text, "string")))

    def use(rng: random.Random, heldout: bool) -> Exchange:
        name, words = proper_name(rng, heldout), plain_words(rng, heldout, 5)
        pattern = rng.choice(_MESSAGE_ASKS)
        call = ToolCall(tool.name, ((to, name), (text, words)))
        question = pattern.replace("{v}", name).replace("{t}", words)
        return _once(rng, heldout, question, call, receipt(rng, heldout), "Done: {r}.")

    return Skill("message", tool, use)


def _word(rng: random.Random, heldout: bool) -> Skill:
    verb = rng.choice(list(_WORD_ASKS))
    key = _parameter(rng, heldout, ("word", "word", "text", "term"))
    tool = Tool(rng.choice((verb, verb, f"{verb}_word")), ((key, "string"),))

    def use(rng: random.Random, heldout: bool) -> Exchange:
        word = made_up_word(rng, heldout)
        question = rng.choice(_WORD_ASKS[verb]).replace("{v}", word)
        return _once(
            rng, heldout, question, ToolCall(tool.name, ((key, word),)), any_result(rng, heldout), f"{word}: {{r}}."
        )

    return Skill(verb, tool, use)


def _alarm(rng: random.Random, heldout: bool) -> Skill:
    """set_alarm(time), or set_timer(minutes) with a number."""
    timer = rng.random() < 0.5
    key = _parameter(rng, heldout, ("minutes", "minutes", "duration") if timer else ("time", "time", "at"))
    name = rng.choice(("set_timer", "start_timer", "timer") if timer else ("set_alarm", "alarm", "create_alarm"))
    tool = Tool(name, ((key, "integer" if timer else "string"),))

    def use(rng: random.Random, heldout: bool) -> Exchange:
        minutes, clock = rng.randint(1, 90), f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}"
        if timer:
            asks = ("Set a timer for {v} minutes.", "Start a timer for {v} minutes.", "Timer for {v} minutes.")
        else:
            asks = ("Set an alarm for {v}.", "Wake me at {v}.", "Set the alarm to {v}.", "Alarm at {v}.")
        question = vary(rng, rng.choice(asks)).replace("{v}", str(minutes) if timer else clock)
        call = ToolCall(tool.name, ((key, minutes if timer else clock),))
        return _once(rng, heldout, question, call, receipt(rng, heldout), "Done: {r}.")

    return Skill("timer" if timer else "alarm", tool, use)


def _action(rng: random.Random, heldout: bool) -> Skill:
    """A tool that does something with a thing: open_file(name)."""
    verb = rng.choice(VERBS) if rng.random() < 0.5 else _fresh(rng, heldout)
    noun = rng.choice(NOUNS) if rng.random() < 0.5 else _fresh(rng, heldout)
    whole = rng.random() < 0.35
    key, kind = _parameter(rng, heldout, _SUBJECT_KEYS), "integer" if whole else "string"
    tool = Tool(f"{verb}_{noun}", ((key, kind),))

    def use(rng: random.Random, heldout: bool) -> Exchange:
        value: str | int = rng.randint(0, rng.choice((9, 99, 9999))) if whole else proper_name(rng, heldout)
        pattern = rng.choice((f"{verb} the {noun} {{v}}.", f"{verb} {noun} {{v}}.", f"Please {verb} the {noun} {{v}}."))
        question = (pattern[0].upper() + pattern[1:]).replace("{v}", str(value))
        call = ToolCall(tool.name, ((key, value),))
        return _once(rng, heldout, question, call, receipt(rng, heldout), "Done: {r}.")

    return Skill(f"{verb} {noun}", tool, use)


def _direct(rng: random.Random, heldout: bool) -> Skill:
    """A tool that the user asks for by its name."""
    name = "_".join(_fresh(rng, heldout) for _ in range(rng.choice((1, 2, 2, 3))))
    keys = [_parameter(rng, heldout, _SUBJECT_KEYS) for _ in range(rng.choice((1, 1, 2)))]
    keys[1:] = [key + ("2" if key == keys[0] else "") for key in keys[1:]]
    types = [rng.choice(("string", "string", "integer")) for _ in keys]
    tool = Tool(name, tuple(zip(keys, types, strict=True)))

    def use(rng: random.Random, heldout: bool) -> Exchange:
        values = [rng.randint(0, 999) if kind == "integer" else _fresh(rng, heldout) for kind in types]
        said = [str(value) for value in values]
        if rng.random() < 0.4:
            said = [f"{key}{rng.choice((' ', ' = ', '='))}{value}" for key, value in zip(keys, values, strict=True)]
        question = vary(rng, rng.choice(_DIRECT_ASKS)).replace("{f}", name).replace("{v}", " and ".join(said))
        call = ToolCall(name, tuple(zip(keys, values, strict=True)))
        return _once(rng, heldout, question, call, any_result(rng, heldout), f"The answer of {name}: {{r}}.")

    return Skill(name, tool, use)


_FAMILIES = {
    _property: 40,
    _here: 6,
    _arithmetic: 13,
    _search: 7,
    _message: 7,
    _word: 6,
    _alarm: 6,
    _action: 8,
    _direct: 7,
}


def draw_skills(rng: random.Random, count: int, heldout: bool, apart_from: Sequence[Skill] = ()) -> list[Skill]:
    """So many tools, none of which could be meant where another of them, or of the given ones, is."""
    skills: list[Skill] = []
    while len(skills) < count:
        skill = rng.choices(list(_FAMILIES), list(_FAMILIES.values()))[0](rng, heldout)
        others = [*apart_from, *skills]
        if all(other.key != skill.key and other.tool.name != skill.tool.name for other in others):
            skills.append(skill)
    return skills
