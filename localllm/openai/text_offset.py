"""Where tokens begin in a text, in characters: in one that is made of them, and in one that was given."""

from __future__ import annotations

import codecs
from typing import Final

_CONTINUATION_BYTES: Final = bytes(range(0x80, 0xC0))
_WINDOW_BYTES: Final = 64
"""How far ahead a token is looked for that does not stand where the one before it ended."""


class TextOfTokens:
    """A text that is the bytes of tokens, one after the other, where what is no UTF-8 counts as U+FFFD.

    A token's offset is that of the character that its first byte is a part of: tokens that share a code point share
    their offset, or the later one has the next character's. A token without bytes is where the next would begin.
    """

    def __init__(self, start: int = 0) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._n_chars = start

    def feed(self, token: bytes) -> tuple[int, str]:
        """Return the token's offset and the text that it completes."""
        if not self._unfinished:
            offset = self._n_chars
            text = self._decoder.decode(token)
        else:
            first = self._decoder.decode(token[:1])
            # The first byte is in the last of these characters. Python's decoder holds back what can't become a code
            # point in one case (half of a surrogate, ED A0), and that is two characters.
            n_touched = len(first) + len(self._unfinished.decode("utf-8", "replace"))
            offset = self._n_chars + n_touched - 1
            text = first + self._decoder.decode(token[1:])
        self._n_chars += len(text)
        return offset, text

    def finish(self) -> str:
        """Return what is left: U+FFFD for an unfinished code point, else nothing."""
        text = self._decoder.decode(b"", final=True)
        self._n_chars += len(text)
        return text

    @property
    def _unfinished(self) -> bytes:
        return self._decoder.getstate()[0]


class GivenText:
    """A text that tokens were made from; it is given out as it is, whatever the tokens' bytes say.

    Usually they are the text, cut up, and then offsets are those of :class:`TextOfTokens`. Tokenizers also add tokens
    that the text doesn't have, read control tokens that have no bytes of their own, and put a space in front of the
    first word: a token that does not stand where the one before it ended is looked for a little further on, and where
    it is not found, it takes no room. Offsets never decrease and never leave the text.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._bytes = text.encode()
        self._at = 0  # bytes
        self._n_chars = 0  # whose first byte lies before that
        self._n_given_out = 0  # characters

    def feed(self, token: bytes) -> tuple[int, str]:
        """Return the token's offset, and the text up to the token's end that was not given out yet."""
        start, end = self._find(token)
        self._move_to(start)
        is_inside = start < len(self._bytes) and self._bytes[start] in _CONTINUATION_BYTES
        offset = self._n_chars - is_inside
        self._move_to(end)
        if end < len(self._bytes) and self._bytes[end] in _CONTINUATION_BYTES:
            return offset, self._give_out(self._n_chars - 1)
        return offset, self._give_out(self._n_chars)

    def finish(self) -> str:
        """Return the rest of the text."""
        return self._give_out(len(self._text))

    def _find(self, token: bytes) -> tuple[int, int]:
        at = self._at
        if self._bytes.startswith(token, at):
            return at, at + len(token)
        if token.startswith(b" ") and len(token) > 1 and self._bytes.startswith(token[1:], at):
            return at, at + len(token) - 1
        found = self._bytes.find(token, at, at + _WINDOW_BYTES + len(token))
        return (at, at) if found < 0 else (found, found + len(token))

    def _move_to(self, at: int) -> None:
        passed = self._bytes[self._at : at]
        self._n_chars += len(passed.translate(None, _CONTINUATION_BYTES))
        self._at = at

    def _give_out(self, end: int) -> str:
        text = self._text[self._n_given_out : end]
        self._n_given_out = max(self._n_given_out, end)
        return text
