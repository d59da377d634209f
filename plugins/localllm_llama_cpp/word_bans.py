"""Keeps words from being written, and finds the tokens that a text is made of wherever it stands."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from localllm import InvalidRequestError

Encode = Callable[[str], list[int]]
"""Text to tokens, with nothing added around it, and control tokens read as the text that they are spelled as."""

_BEFORE = "\n"  # ends a word for every tokenizer, and adds nothing to the next one


def spellings(encode: Encode, text: str, param: str) -> list[tuple[int, ...]]:
    """Return the token sequences that write ``text``, with and without a space before it.

    Some tokenizers put a space before every text themselves, so the text is looked at behind a line end too. Raises
    ``InvalidRequestError`` for a text without a word.
    """
    word = text.strip()
    if not word:
        message = f"{param} holds {text!r}, which is no word; leave it out."
        raise InvalidRequestError(message, param=param)
    found: dict[tuple[int, ...], None] = {}
    for spelled in (word, f" {word}"):
        found[tuple(encode_text(encode, spelled, param))] = None
        before, both = encode(_BEFORE), encode(_BEFORE + spelled)
        if both[: len(before)] == before:
            found[tuple(both[len(before) :])] = None
    return [tokens for tokens in found if tokens]


def encode_text(encode: Encode, text: str, param: str) -> list[int]:
    """Return the tokens of a text that stands in field ``param`` of the request.

    Raises ``InvalidRequestError`` for it.
    """
    try:
        return encode(text)
    except InvalidRequestError as error:  # it takes each text for a prompt
        raise InvalidRequestError(error.message.replace("The prompt", param, 1), param=param) from error


class WordBans:
    """Bans the last token of a sequence where all others of it were just written, as vLLM's ``bad_words`` does.

    Only what the answer itself says counts, not its prompt.
    """

    def __init__(self, sequences: Collection[Sequence[int]]) -> None:
        self._by_beginning: dict[tuple[int, ...], set[int]] = {}
        for tokens in sequences:
            self._by_beginning.setdefault(tuple(tokens[:-1]), set()).add(tokens[-1])
        self._lengths = sorted({len(beginning) for beginning in self._by_beginning})
        self._written: deque[int] = deque(maxlen=max(1, *self._lengths) if self._lengths else 1)

    def accept(self, token: int) -> None:
        """Remember a token that was written."""
        self._written.append(token)

    @property
    def ids(self) -> NDArray[np.intp]:
        """The tokens that may not come next."""
        written = tuple(self._written)
        banned: set[int] = set()
        for length in self._lengths:
            if length <= len(written):
                banned |= self._by_beginning.get(written[len(written) - length :], set())
        return np.fromiter(banned, dtype=np.intp, count=len(banned))
