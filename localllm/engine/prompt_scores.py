"""How likely the tokens of a prompt were, in the words of the events that tell it."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.contract.decoder import Scored, Tokenizer
from localllm.contract.generation import PromptLogprobs, PromptToken, TokenAlternative


def first_prompt_token(token: int, tokenizer: Tokenizer) -> PromptLogprobs:
    """Return the event for a prompt's first token, which nothing stands before: it has no log-probability."""
    return PromptLogprobs((_prompt_token(token, None, (), tokenizer),))


def scored_prompt_tokens(targets: Sequence[int], scores: Sequence[Scored], tokenizer: Tokenizer) -> PromptLogprobs:
    """Return the event for tokens that were scored, in order.

    A control token's text is as templates write it, so that it can be told from others; it has no bytes, as it is no
    part of any text. What is no UTF-8 by itself has U+FFFD in its text.
    """
    tokens = []
    for token, scored in zip(targets, scores, strict=True):
        top = tuple(
            TokenAlternative(_text(other, tokenizer), tokenizer.piece(other), logprob, other)
            for other, logprob in scored.top
        )
        tokens.append(_prompt_token(token, scored.logprob, top, tokenizer))
    return PromptLogprobs(tuple(tokens))


def _prompt_token(
    token: int, logprob: float | None, top: tuple[TokenAlternative, ...], tokenizer: Tokenizer
) -> PromptToken:
    return PromptToken(token, _text(token, tokenizer), tokenizer.piece(token), logprob, top)


def _text(token: int, tokenizer: Tokenizer) -> str:
    return tokenizer.spelling(token).decode("utf-8", "replace")
