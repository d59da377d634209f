"""Which requests begin alike, so that they are best answered where that beginning has been evaluated already."""

from __future__ import annotations

from localllm.contract.generation import ChatPrompt, InfillPrompt, Prompt, TokenPrompt

_CHARACTERS = 2048
_TOKENS = 512


def affinity_of(prompt: Prompt, owner: str, session_id: str | None) -> int | None:
    """Return a number that is equal for the turns of one conversation, and for texts with the same long beginning.

    A conversation is told by its session, else by what it begins with up to its first question. None for texts that
    are too short for it to matter. ``owner``: only their own requests share what was evaluated.
    """
    if session_id is not None:
        return hash((owner, session_id))
    if isinstance(prompt, ChatPrompt):
        return hash((owner, *_opening(prompt)))
    if isinstance(prompt, TokenPrompt):
        return hash((owner, prompt.tokens[:_TOKENS])) if len(prompt.tokens) >= _TOKENS else None
    text = prompt.prefix if isinstance(prompt, InfillPrompt) else prompt.text
    return hash((owner, text[:_CHARACTERS])) if len(text) >= _CHARACTERS else None


def _opening(prompt: ChatPrompt) -> list[str]:
    """Return the messages of a conversation up to its first question, each cut short."""
    opening: list[str] = []
    for message in prompt.messages:
        content = message.get("content")
        opening.append((content if isinstance(content, str) else repr(content))[:_CHARACTERS])
        if message.get("role") == "user":
            break
    return opening
