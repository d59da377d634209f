"""Held-out dialogues that measure the bundled demo chat model; needs the standard library only."""

from __future__ import annotations

import random

from .chat_markup import Message, Setting, assistant_text
from .dialogues import (
    ONE_WORD_STYLE,
    PIRATE_STYLE,
    PLAIN,
    Dialogue,
    Memory,
    ask_back,
    draw_kind,
    next_turn,
    styled,
    system_prompt,
    tell,
)
from .tool_dialogues import exchange_messages, needless_turn, offered, opening, turn_messages, without_thoughts
from .turns import Turn, simple_turn

KINDS = ("greet", "capital", "sum", "copy", "recall", "one_word", "pirate", "count", "list", "story", "unknown")
# These need a request's `tools` or `enable_thinking`.
SETTING_KINDS = ("tool_call", "tool_answer", "no_tool", "think")

# Kinds measured below 95 % on the bundled file: tests must not lean on every answer of theirs.
BELOW_TARGET: tuple[str, ...] = ("tool_call", "tool_answer", "no_tool", "think")

__all__ = [
    "BELOW_TARGET",
    "KINDS",
    "SETTING_KINDS",
    "Dialogue",
    "Message",
    "heldout_dialogues",
    "long_recall_dialogues",
    "setting_dialogues",
]


def _said(turn: Turn, style: str) -> tuple[Message, Message]:
    return Message("user", turn.ask), Message("assistant", styled(turn, style))


def _examined(rng: random.Random, kind: str) -> Dialogue:
    """A dialogue whose last question is of this kind; `one_word` and `pirate`: any, under such a system prompt."""
    style = kind if kind in (ONE_WORD_STYLE, PIRATE_STYLE) else PLAIN
    memory = Memory(style)
    prompt = system_prompt(rng, memory, True)
    messages = [Message("system", prompt)] if prompt is not None else []
    if kind == "recall" and rng.random() < 0.85:
        messages += _said(tell(rng, memory, True), style)
    for _ in range(rng.choices((0, 1, 2, 3), (35, 30, 20, 15))[0]):
        messages += _said(next_turn(rng, draw_kind(rng, style), memory, True), style)
    last_kind = draw_kind(rng, style) if style != PLAIN else kind
    turn = next_turn(rng, last_kind, memory, True, must_ask=True)
    messages.append(Message("user", turn.ask))
    return Dialogue(kind, tuple(messages), styled(turn, style))


def _far_recall(rng: random.Random, characters: int) -> Dialogue:
    """One to three facts, then only other things for so many characters, then the first question for a fact."""
    memory = Memory()
    messages: list[Message] = []
    for _ in range(rng.randint(1, 3)):
        messages += _said(tell(rng, memory, True), PLAIN)
    length = sum(len(message.content) + 12 for message in messages)
    while length < characters:
        turn = simple_turn(
            rng, rng.choice(("greet", "capital", "sum", "copy", "count", "list", "story", "unknown")), True
        )
        if len(turn.ask) + len(turn.answer) < 600:
            messages += _said(turn, PLAIN)
            length += len(turn.ask) + len(turn.answer) + 24
    turn = ask_back(rng, rng.choice(list(memory.told.values()))[0], memory.told)
    return Dialogue("recall", (*messages, Message("user", turn.ask)), turn.answer)


def _with_setting(rng: random.Random, kind: str) -> Dialogue:
    """A dialogue with tools, or with thinking on (then every third time with tools too)."""
    thinks = kind == "think"
    skills = offered(rng, True) if not thinks or rng.random() < 0.33 else []
    memory = Memory(PLAIN)
    messages = opening(rng, memory, True)
    for _ in range(rng.choices((0, 1, 2), (55, 30, 15))[0]):
        if skills and rng.random() < 0.5:
            messages += exchange_messages(rng.choice(skills).use(rng, True))
        else:
            messages += turn_messages(needless_turn(rng, memory, skills, True, False), PLAIN)
    if kind in ("tool_call", "tool_answer") or (skills and thinks and rng.random() < 0.5):
        last = exchange_messages(rng.choice(skills).use(rng, True))
        cut = len(last) - 1 if kind == "tool_answer" else 1
    else:
        last, cut = turn_messages(needless_turn(rng, memory, skills, True, True), PLAIN), 1
    setting = Setting(tuple(skill.tool for skill in skills), True if thinks else None)
    said = messages + last[:cut]
    return Dialogue(
        kind, tuple(said if thinks else without_thoughts(said)), assistant_text(last[cut], with_thought=False), setting
    )


def setting_dialogues(count: int, seed: int) -> list[Dialogue]:
    """As `heldout_dialogues`, for the kinds that need tools or thinking."""
    rng = random.Random(f"localllm held out, settings {seed}")
    return [_with_setting(rng, SETTING_KINDS[index % len(SETTING_KINDS)]) for index in range(count)]


def heldout_dialogues(count: int, seed: int) -> list[Dialogue]:
    """So many dialogues, the kinds in turn; their made-up words share no syllable with those of training."""
    rng = random.Random(f"localllm held out {seed}")
    return [_examined(rng, KINDS[index % len(KINDS)]) for index in range(count)]


def long_recall_dialogues(count: int, seed: int, characters: int) -> list[Dialogue]:
    """Dialogues with at least so many characters (about 2.2 to a token) from a fact to the first question for it."""
    rng = random.Random(f"localllm held out, long {seed}")
    return [_far_recall(rng, characters) for _ in range(count)]
