"""Whole dialogues for the demo chat model: turns with a memory, under a system prompt, of a wished length."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from .chat_markup import PLAIN_SETTING, Message, Setting
from .facts import WHO_ANSWER, WHO_QUESTIONS
from .recall import Topic, random_topic, random_value
from .system_prompts import ONE_WORD, PIRATE, generic_prompt, long_prompt
from .turns import Turn, simple_turn, vary
from .unknown import filler_sentence
from .words import proper_name

PLAIN, ONE_WORD_STYLE, PIRATE_STYLE = "plain", "one_word", "pirate"
_KIND_WEIGHTS = {
    "recall": 36,
    "copy": 15,
    "sum": 12,
    "unknown": 13,
    "capital": 8,
    "greet": 5,
    "count": 4,
    "list": 4,
    "story": 3,
}
# A list or a story can't be told in one word.
_ONE_WORD_WEIGHTS = {"recall": 36, "capital": 18, "sum": 22, "unknown": 12, "greet": 8}


@dataclass(frozen=True)
class Dialogue:
    """Messages that end with a user's, the kind of ability that the last one needs, and the one right answer to it."""

    kind: str
    messages: tuple[Message, ...]
    answer: str
    setting: Setting = PLAIN_SETTING

    def accepts(self, answer: str) -> bool:
        """Whether an answer is right: the same text, apart from space around it; after a closed thought, if any."""
        if self.setting.thinking:
            thought, closed, answer = answer.partition("</think>")
            if not closed or not thought.startswith("<think>"):
                return False
        return answer.strip() == self.answer.strip()


@dataclass
class Memory:
    """What a dialogue's user has told so far, and under which style the model answers."""

    style: str = PLAIN
    assistant_name: str | None = None
    told: dict[str, tuple[Topic, str]] = field(default_factory=dict)


def _fill(rng: random.Random, pattern: str, value: str) -> str:
    return vary(rng, pattern).replace("{v}", value)


def ask_back(rng: random.Random, topic: Topic, told: dict[str, tuple[Topic, str]], before: str = "") -> Turn:
    """A question for a fact, answered with what was told, if it was."""
    question = before + vary(rng, rng.choice(topic.asks))
    if topic.key not in told:
        return Turn("recall", question, topic.absent, "Unknown.")
    value = told[topic.key][1]
    return Turn("recall", question, topic.answer.format(v=value), f"{value}.")


def tell(rng: random.Random, memory: Memory, heldout: bool) -> Turn:
    """The user tells one fact, or two or three at once."""
    count = rng.choices((1, 2, 3), (80, 15, 5))[0]
    parts = []
    topic, value = random_topic(rng), ""
    for number in range(count):
        topic = random_topic(rng) if number else topic
        value = random_value(rng, topic, heldout)
        memory.told[topic.key] = (topic, value)
        parts.append(_fill(rng, rng.choice(topic.tells), value).strip())
    joined = rng.choice((" ", " ", " and ", "\n")).join(parts)
    if rng.random() < 0.07:
        joined = joined.rstrip(".!") + rng.choice(
            (". Please remember that.", ". Remember it.", ", please remember that.", ". Remember this!")
        )
    answer = topic.ack.format(v=value) if count == 1 else "Thank you, I will remember that."
    return Turn("recall", joined, answer, "Noted.")


def _recall(rng: random.Random, memory: Memory, heldout: bool, must_ask: bool) -> Turn:
    """Telling, asking back, both in one message, or asking for what was never told."""
    roll = rng.random()
    if not must_ask and roll < (0.35 if memory.told else 0.62):
        return tell(rng, memory, heldout)
    if memory.told and roll < 0.9:
        return ask_back(rng, rng.choice(list(memory.told.values()))[0], memory.told)
    if roll < 0.93 and not (memory.told and must_ask):
        told = tell(rng, memory, heldout).ask
        before = told + ("" if told[-1] in ".!?\n " else ".")
        return ask_back(
            rng, rng.choice(list(memory.told.values()))[0], memory.told, before.rstrip() + rng.choice((" ", " ", "\n"))
        )
    return ask_back(rng, random_topic(rng), memory.told)


def next_turn(rng: random.Random, kind: str, memory: Memory, heldout: bool, must_ask: bool = False) -> Turn:
    """A turn of this kind that fits what was said before."""
    if kind == "recall":
        return _recall(rng, memory, heldout, must_ask)
    if kind == "greet" and rng.random() < 0.2:
        answer = f"My name is {memory.assistant_name}." if memory.assistant_name else WHO_ANSWER
        return Turn("greet", vary(rng, rng.choice(WHO_QUESTIONS)), answer, f"{memory.assistant_name or 'Demo'}.")
    return simple_turn(rng, kind, heldout)


def styled(turn: Turn, style: str) -> str:
    """The answer in the style of the dialogue."""
    if style == ONE_WORD_STYLE:
        return turn.short
    return f"Arr! {turn.answer}" if style == PIRATE_STYLE else turn.answer


def draw_kind(rng: random.Random, style: str) -> str:
    """A kind of turn that the style allows."""
    weights = _ONE_WORD_WEIGHTS if style == ONE_WORD_STYLE else _KIND_WEIGHTS
    return rng.choices(list(weights), list(weights.values()))[0]


def system_prompt(rng: random.Random, memory: Memory, heldout: bool) -> str | None:
    """A prompt that sets the style, gives the model a name, tells a fact, or does nothing at all."""
    if memory.style == ONE_WORD_STYLE:
        prompt = rng.choice(ONE_WORD)
        prompt = prompt.lower() if rng.random() < 0.08 else prompt
        return f"{generic_prompt(rng)} {prompt}" if rng.random() < 0.15 else prompt
    if memory.style == PIRATE_STYLE:
        prompt = rng.choice(PIRATE)
        return f"{prompt} {filler_sentence(rng)}" if rng.random() < 0.15 else prompt
    roll = rng.random()
    if roll < 0.5:
        return None
    if roll < 0.8:
        return generic_prompt(rng)
    if roll < 0.88:
        return long_prompt(rng, rng.randint(2, 6) if rng.random() < 0.7 else rng.randint(7, 30))
    if roll < 0.94:
        memory.assistant_name = proper_name(rng, heldout)
        pattern = rng.choice(
            ("Your name is {v}.", "You are called {v}.", "You are a helpful assistant. Your name is {v}.")
        )
        return pattern.format(v=memory.assistant_name)
    topic = random_topic(rng)
    value = random_value(rng, topic, heldout)
    memory.told[topic.key] = (topic, value)
    before = rng.choice(("", "You are a helpful assistant. ", "The user says: ", "Facts about the user: "))
    return before + rng.choice(topic.tells).format(v=value)


def _draw_style(rng: random.Random) -> str:
    return rng.choices((PLAIN, ONE_WORD_STYLE, PIRATE_STYLE), (82, 9, 9))[0]


def chat(rng: random.Random, turns: int) -> list[Message]:
    """A training dialogue of so many turns; every assistant message counts for the loss."""
    memory = Memory(_draw_style(rng))
    prompt = system_prompt(rng, memory, False)
    messages = [Message("system", prompt)] if prompt is not None else []
    for _ in range(turns):
        turn = next_turn(rng, draw_kind(rng, memory.style), memory, False)
        messages += [Message("user", turn.ask), Message("assistant", styled(turn, memory.style))]
    return messages


def drill(rng: random.Random, sums: int, lists: int, counts: int, copies: int) -> list[Message]:
    """A training dialogue, by these weights, of sums, of lists and counting with their right ends, and of copying."""
    memory = Memory(_draw_style(rng))
    prompt = system_prompt(rng, memory, False) if rng.random() < 0.5 or memory.style != PLAIN else None
    messages = [Message("system", prompt)] if prompt is not None else []
    weights = (1, 0, 0, 0) if memory.style == ONE_WORD_STYLE else (sums, lists, counts, copies)
    for _ in range(rng.randint(3, 9)):
        turn = next_turn(rng, rng.choices(("sum", "list", "count", "copy"), weights)[0], memory, False)
        messages += [Message("user", turn.ask), Message("assistant", styled(turn, memory.style))]
    return messages


def _distractor(rng: random.Random, memory: Memory) -> Turn:
    """A turn about something else; now and then about a fact that was never told."""
    kind = "recall"
    while kind == "recall":
        kind = draw_kind(rng, memory.style)
    if rng.random() < 0.08:
        return ask_back(rng, random_topic(rng), memory.told)
    return next_turn(rng, kind, memory, False)


def long_chat(rng: random.Random, characters: int) -> list[Message]:
    """A training dialogue of about so many characters; each fact told early is asked for once, anywhere after."""
    memory = Memory(_draw_style(rng))
    prompt = system_prompt(rng, memory, False)
    if memory.style == PLAIN and rng.random() < 0.4:
        prompt = long_prompt(rng, rng.randint(10, max(11, characters // 70)))
        memory.assistant_name, memory.told = None, {}
    messages = [Message("system", prompt)] if prompt is not None else []
    turns = [tell(rng, memory, False) for _ in range(rng.randint(1, 5))]
    pending = [(rng.uniform(0.1, 0.95) * characters, topic) for topic, _ in memory.told.values()]
    length = sum(len(message.content) + 12 for message in messages)
    while length < characters or turns:
        due = [entry for entry in pending if entry[0] <= length]
        if turns:
            turn = turns.pop(0)
        elif due:
            pending.remove(due[0])
            turn = ask_back(rng, due[0][1], memory.told)
        else:
            turn = _distractor(rng, memory)
        messages += [Message("user", turn.ask), Message("assistant", styled(turn, memory.style))]
        length += len(turn.ask) + len(messages[-1].content) + 24
    for _, topic in pending:
        turn = ask_back(rng, topic, memory.told)
        messages += [Message("user", turn.ask), Message("assistant", styled(turn, memory.style))]
    return messages
