"""The keys of ``[plugin.chat]``."""

from __future__ import annotations

from dataclasses import dataclass

from localllm import setting
from localllm.openai import ReasoningField


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """``[plugin.chat]``: how answers are worded."""

    reasoning_field: ReasoningField = setting(
        "reasoning_content",
        "Where answers have what the model thought: 'reasoning_content', 'reasoning', as some clients look for it, or "
        "'both'.",
    )
