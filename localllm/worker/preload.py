"""Beginnings of conversations that the configuration wants evaluated before anybody asks: which tokens they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from localllm.contract.backend import LoadedModel
from localllm.contract.generation import ChatPrompt
from localllm.engine.radix import common_length
from localllm.worker.intake import encode_rendered, render

_SAYS: Final = ("A", "1")
"""Two beginnings of a message that no tokenizer joins to what stands before it in the same way."""


def preload_tokens(prompt: ChatPrompt, model: LoadedModel) -> tuple[int, ...]:
    """Return the tokens with which every conversation begins that begins with these messages.

    Found by rendering such conversations and keeping what they have in common: how a template writes the end of a
    message depends on what follows, and some move or drop messages. Raises what :func:`render` does.
    """
    common: list[int] | None = None
    for messages in _continuations(prompt.messages):
        tokens = encode_rendered(render(replace(prompt, messages=messages), model), model.tokenizer)
        if common is not None:
            tokens = tokens[: common_length(common, tokens, 0, min(len(common), len(tokens)))]
        common = tokens
    return tuple(common or ())


def _continuations(messages: tuple[Mapping[str, Any], ...]) -> Iterator[tuple[Mapping[str, Any], ...]]:
    """Yield conversations that begin with ``messages`` and are ready for an answer."""
    if messages and messages[-1]["role"] in ("user", "tool"):
        yield messages
        answers = [{"role": "assistant", "content": says} for says in _SAYS]
        yield from ((*messages, answer, {"role": "user", "content": _SAYS[0]}) for answer in answers)
    else:
        yield from ((*messages, {"role": "user", "content": says}) for says in _SAYS)
