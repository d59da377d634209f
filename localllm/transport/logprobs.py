"""Log-probabilities on the wire: those of drawn tokens and those of prompts, as arrays."""

from __future__ import annotations

from typing import Any

from localllm.contract.generation import PromptToken, TokenAlternative, TokenLogprob
from localllm.transport.shapes import decode_bytes, decode_float, encode_bytes, encode_float, take_fields, wrong


def encode_logprobs(items: tuple[TokenLogprob, ...]) -> list[Any]:
    """Return one row for each drawn token."""
    return [[item.text, encode_bytes(item.bytes), encode_float(item.logprob), _encode_top(item.top)] for item in items]


def decode_logprobs(data: list[Any]) -> tuple[TokenLogprob, ...]:
    """Undo :func:`encode_logprobs`. Raises ``ProtocolError``."""
    return tuple([_decode_logprob(row) for row in data])


def encode_prompt_tokens(tokens: tuple[PromptToken, ...]) -> list[Any]:
    """Return one row for each token of a prompt."""
    return [
        [
            token.id,
            token.text,
            encode_bytes(token.bytes),
            None if token.logprob is None else encode_float(token.logprob),
            _encode_top(token.top),
        ]
        for token in tokens
    ]


def decode_prompt_tokens(data: list[Any]) -> tuple[PromptToken, ...]:
    """Undo :func:`encode_prompt_tokens`. Raises ``ProtocolError``."""
    return tuple([_decode_prompt_token(row) for row in data])


def _encode_top(top: tuple[TokenAlternative, ...]) -> list[Any]:
    return [[other.text, encode_bytes(other.bytes), encode_float(other.logprob), other.id] for other in top]


def _decode_logprob(data: Any) -> TokenLogprob:  # noqa: ANN401
    text, raw, logprob, top = take_fields(data, str, str, object, list)
    return TokenLogprob(text, decode_bytes(raw), decode_float(logprob), _decode_top(top))


def _decode_prompt_token(data: Any) -> PromptToken:  # noqa: ANN401
    token, text, raw, logprob, top = take_fields(data, int, str, str, object, list)
    return PromptToken(
        token,
        text,
        decode_bytes(raw),
        None if logprob is None else decode_float(logprob),
        _decode_top(top),
    )


def _decode_top(data: list[Any]) -> tuple[TokenAlternative, ...]:
    return tuple([_decode_alternative(row) for row in data])


def _decode_alternative(data: Any) -> TokenAlternative:  # noqa: ANN401
    text, raw, logprob, token = take_fields(data, str, str, object, object)
    if token is not None and type(token) is not int:
        raise wrong("a token id or null", token)
    return TokenAlternative(text, decode_bytes(raw), decode_float(logprob), token)
