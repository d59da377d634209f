"""Log-probabilities in the shapes there are for them: the chat endpoint's, the legacy one, and vLLM's for prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from localllm.contract.generation import PromptToken, TokenAlternative, TokenLogprob

LOWEST_LOGPROB: Final = -9999.0
"""Stands for minus infinity, which JSON can't express (a banned token, for instance)."""


def finite(logprob: float) -> float:
    """Return the value as JSON can carry it."""
    return logprob if math.isfinite(logprob) and logprob > LOWEST_LOGPROB else LOWEST_LOGPROB


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return ``choices[].logprobs`` of the chat endpoint."""
    content = [{**_entry(token), "top_logprobs": [_entry(top) for top in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def legacy_logprobs(
    tokens: Sequence[TokenLogprob | PromptToken], offsets: Sequence[int], *, n_top: int
) -> dict[str, list[Any]]:
    """Return ``choices[].logprobs`` of the completions endpoint.

    ``offsets`` tell where each token begins, in characters of the choice's text. ``top_logprobs`` always holds the
    token itself beside the ``n_top`` most likely ones. The first token of a prompt has neither: both are null. A token
    that is only a part of a code point is named by its bytes, as OpenAI did it: ``bytes:\\xe2\\x82``. Where two tokens
    still have the same name, the more likely one stands in ``top_logprobs``.
    """
    return {
        "tokens": [_legacy_name(token) for token in tokens],
        "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
        "top_logprobs": [_alternatives(token, n_top) for token in tokens],
        "text_offset": list(offsets),
    }


def prompt_entry(token: PromptToken, *, n_top: int) -> dict[str, Any] | None:
    """Return one entry of vLLM's ``prompt_logprobs``; that of a prompt's first token is null.

    Keys are token ids. ``rank`` counts from 1, the most likely token; null where that is not known.
    """
    if token.logprob is None:
        return None
    ranks = {top.id: rank for rank, top in enumerate(token.top, 1)}
    entry = {str(token.id): _ranked(token.text, token.logprob, ranks.get(token.id))}
    for top in token.top[:n_top]:
        if top.id is not None:
            entry.setdefault(str(top.id), _ranked(top.text, top.logprob, ranks[top.id]))
    return entry


def _ranked(text: str, logprob: float, rank: int | None) -> dict[str, Any]:
    return {"logprob": finite(logprob), "rank": rank, "decoded_token": text}


def _entry(token: TokenLogprob | TokenAlternative) -> dict[str, Any]:
    return {"token": token.text, "logprob": finite(token.logprob), "bytes": list(token.bytes)}


def _alternatives(token: TokenLogprob | PromptToken, n_top: int) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    by_name = {_legacy_name(token): finite(token.logprob)}
    for top in token.top[:n_top]:
        name, logprob = _legacy_name(top), finite(top.logprob)
        by_name[name] = max(logprob, by_name.get(name, logprob))
    return by_name


def _legacy_name(token: TokenLogprob | PromptToken | TokenAlternative) -> str:
    if "\ufffd" not in token.text:
        return token.text
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)
