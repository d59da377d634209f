"""Log-probabilities in the two shapes that OpenAI has for them: the chat endpoint's and the legacy one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from localllm.contract.generation import TokenAlternative, TokenLogprob

LOWEST_LOGPROB: Final = -9999.0
"""Stands for minus infinity, which JSON can't express (a banned token, for instance)."""


def finite(logprob: float) -> float:
    """Return the value as JSON can carry it."""
    return logprob if math.isfinite(logprob) and logprob > LOWEST_LOGPROB else LOWEST_LOGPROB


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return ``choices[].logprobs`` of the chat endpoint."""
    content = [{**_entry(token), "top_logprobs": [_entry(top) for top in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def legacy_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Return ``choices[].logprobs`` of the completions endpoint.

    ``offset`` is where the first of the tokens begins, in characters of the choice's text. ``top_logprobs`` always
    holds the chosen token, so that it has up to one entry more than was asked for.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [finite(token.logprob) for token in tokens],
        "top_logprobs": [_alternatives(token) for token in tokens],
        "text_offset": offsets,
    }


def _entry(token: TokenLogprob | TokenAlternative) -> dict[str, Any]:
    return {"token": token.text, "logprob": finite(token.logprob), "bytes": list(token.bytes)}


def _alternatives(token: TokenLogprob) -> dict[str, float]:
    by_text = {token.text: finite(token.logprob)}
    for top in token.top:
        by_text.setdefault(top.text, finite(top.logprob))
    return by_text
