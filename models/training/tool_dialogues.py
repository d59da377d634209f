"""Dialogues of the demo chat model with tools, with thoughts, or with both."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from .chat_markup import Message, Setting
from .dialogues import (
    ONE_WORD_STYLE,
    PIRATE_STYLE,
    PLAIN,
    Memory,
    draw_kind,
    next_turn,
    styled,
    system_prompt,
)
from .facts import UNKNOWN_ANSWER
from .thoughts import TOOL_ANSWERED, call_thought, thought_of
from .tool_skills import Exchange, Skill, draw_skills
from .turns import Turn


def without_thoughts(messages: Sequence[Message]) -> list[Message]:
    """The same messages as they stand where thinking is off."""
    return [replace(message, thought="") for message in messages]


def exchange_messages(exchange: Exchange) -> list[Message]:
    """The question, the calls, what the tools say, and the answer, with thoughts."""
    return [
        Message("user", exchange.question),
        Message("assistant", "", exchange.calls, call_thought(exchange.calls[0].name)),
        *(Message("tool", result) for result in exchange.results),
        Message("assistant", exchange.answer, (), TOOL_ANSWERED),
    ]


def turn_messages(turn: Turn, style: str) -> list[Message]:
    """A question and its answer, with a thought."""
    return [Message("user", turn.ask), Message("assistant", styled(turn, style), (), thought_of(turn))]


def needless_turn(rng: random.Random, memory: Memory, skills: Sequence[Skill], heldout: bool, ask: bool) -> Turn:
    """A turn for which none of the offered tools is any good; at times one that would need another tool."""
    keys = {skill.key for skill in skills}
    if skills and rng.random() < 0.25:
        missing = draw_skills(rng, 1, heldout, skills)[0]
        if missing.key not in ("sum", "translate"):
            return Turn("unknown", missing.use(rng, heldout).question, UNKNOWN_ANSWER, "Unknown.")
    kind = draw_kind(rng, memory.style)
    while kind == "sum" and "sum" in keys:
        kind = draw_kind(rng, memory.style)
    return next_turn(rng, kind, memory, heldout, must_ask=ask)


def opening(rng: random.Random, memory: Memory, heldout: bool) -> list[Message]:
    """The system message, if there is one."""
    prompt = system_prompt(rng, memory, heldout)
    return [Message("system", prompt)] if prompt is not None else []


def offered(rng: random.Random, heldout: bool) -> list[Skill]:
    """One to four tools."""
    return draw_skills(rng, rng.choices((1, 2, 3, 4), (40, 28, 18, 14))[0], heldout)


def tool_chat(rng: random.Random, turns: int, thinking: bool | None) -> tuple[list[Message], Setting]:
    """A training dialogue of so many turns in which tools are offered."""
    memory, skills = Memory(PLAIN), offered(rng, False)
    messages = opening(rng, memory, False)
    for _ in range(turns):
        if rng.random() < 0.65:
            messages += exchange_messages(rng.choice(skills).use(rng, False))
        else:
            messages += turn_messages(needless_turn(rng, memory, skills, False, False), memory.style)
    setting = Setting(tuple(skill.tool for skill in skills), thinking)
    return messages if thinking else without_thoughts(messages), setting


def thinking_chat(rng: random.Random, turns: int, thinking: bool) -> tuple[list[Message], Setting]:
    """A training dialogue without tools in which thinking is on, or expressly off."""
    memory = Memory(rng.choices((PLAIN, ONE_WORD_STYLE, PIRATE_STYLE), (82, 9, 9))[0])
    messages = opening(rng, memory, False)
    for _ in range(turns):
        messages += turn_messages(needless_turn(rng, memory, (), False, False), memory.style)
    return messages if thinking else without_thoughts(messages), Setting((), thinking)
