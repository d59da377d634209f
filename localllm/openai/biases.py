"""``logit_bias`` in all its spellings: by token id, by text, as an object or as pairs."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from localllm.openai.wire_model import FieldError, describe

MAX_TOKEN_ID: Final = 2**31 - 1
MAX_BIASES: Final = 1024
MAX_BIASED_CHARS: Final = 256
BAN: Final = -100.0

_INTEGER: Final = re.compile(r"-?[0-9]+")


class Biases(NamedTuple):
    """What is added to the logits of tokens that are named by id, and of those that make up a text."""

    by_id: tuple[tuple[int, float], ...] = ()
    by_text: tuple[tuple[str, float], ...] = ()


def parse_logit_bias(value: object) -> Biases:
    """Return the biases of ``{"id or text": bias}`` or ``[[id or text, bias]]``, as OpenAI and llama-server write them.

    A key of an object that reads as an integer is an id, as JSON has no other keys than strings; in a pair a string is
    always a text. A bias of false bans. Of several for the same token or text the last one counts.
    Raises ``FieldError``.
    """
    if isinstance(value, dict):
        pairs: list[Any] = [[_read_key(key), bias] for key, bias in value.items()]
    elif isinstance(value, list):
        pairs = value
    else:
        raise FieldError(f"must be an object of tokens and biases, or a list of such pairs, not {describe(value)}")
    if len(pairs) > MAX_BIASES:
        raise FieldError(f"must have at most {MAX_BIASES} tokens, not {len(pairs)}")
    by_id: dict[int, float] = {}
    by_text: dict[str, float] = {}
    for pair in pairs:
        token, bias = _check_pair(pair)
        if isinstance(token, int):
            by_id[token] = bias
        else:
            by_text[token] = bias
    return Biases(tuple(by_id.items()), tuple(by_text.items()))


def _read_key(key: str) -> int | str:
    if not _INTEGER.fullmatch(key):
        return key
    if len(key) > len(str(MAX_TOKEN_ID)):  # Python refuses to read integers of thousands of digits
        raise FieldError(f"must name tokens by ids from 0 to {MAX_TOKEN_ID}, or by texts, not {describe(key)}")
    return int(key)


def _check_pair(pair: object) -> tuple[int | str, float]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise FieldError("must hold pairs of a token id, or a text, and a bias")
    token, bias = pair
    _check_token(token)
    if bias is False:
        return token, BAN
    # The chained comparison is false for NaN too.
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not BAN <= bias <= -BAN:
        raise FieldError(f"must hold biases from -100 to 100 (or false, which bans), not {describe(bias)}")
    return token, float(bias)


def _check_token(token: object) -> None:
    if isinstance(token, str):
        if not 1 <= len(token) <= MAX_BIASED_CHARS:
            raise FieldError(f"must name texts of 1 to {MAX_BIASED_CHARS} characters, not {describe(token)}")
        try:
            token.encode()
        except UnicodeEncodeError:
            raise FieldError(f"must name texts in valid Unicode, not {describe(token)}") from None
    elif type(token) is not int or not 0 <= token <= MAX_TOKEN_ID:
        raise FieldError(f"must name tokens by ids from 0 to {MAX_TOKEN_ID}, or by texts, not {describe(token)}")
