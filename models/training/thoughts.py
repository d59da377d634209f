"""The short thought that the demo chat model writes before an answer when thinking is on."""

from __future__ import annotations

import re

from .facts import UNKNOWN_ANSWER
from .turns import Turn

TOOL_ANSWERED = "The tool has answered."
_NOT_KNOWN = "I can not answer this."
_FIXED = {
    "greet": "This is small talk.",
    "copy": "The user wants these words repeated.",
    "story": "The user wants a story.",
    "unknown": _NOT_KNOWN,
}


def call_thought(function: str) -> str:
    """The thought before a call of this function."""
    return f"I need {function} for this."


def _recall_thought(turn: Turn) -> str:
    if turn.short == "Noted.":
        return "The user tells me something. I will remember it."
    if turn.short == "Unknown.":
        return "The user has not told me this."
    return "The user told me this before."


def thought_of(turn: Turn) -> str:
    """One or two short sentences that lead from the question to the answer."""
    if turn.answer == UNKNOWN_ANSWER:
        return _NOT_KNOWN
    if turn.kind == "recall":
        return _recall_thought(turn)
    if turn.kind == "capital" and (match := re.fullmatch(r"The capital of (.+) is (.+)\.", turn.answer)):
        return f"The user asks for the capital of {match[1]}. It is {match[2]}."
    if turn.kind == "sum" and (match := re.fullmatch(r"(\d+) \+ (\d+) is (\d+)\.", turn.answer)):
        return f"I must add {match[1]} and {match[2]}. That is {match[3]}."
    if turn.kind == "count":
        numbers = turn.answer.rstrip(".").split(", ")
        return f"I must count from {numbers[0]} to {numbers[-1]}."
    if turn.kind == "list":
        return f"The user wants a list of {turn.answer.count(chr(10)) + 1} entries."
    return _FIXED.get(turn.kind, "I know the answer.")
