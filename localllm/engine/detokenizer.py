"""Bytes of tokens to text, complete code points only."""

from __future__ import annotations

import codecs


class Detokenizer:
    """Decodes UTF-8 that arrives in pieces cut anywhere.

    The pieces' texts joined are ``b"".join(pieces).decode("utf-8", "replace")``: a code point leaves when its last
    byte is there, and what can't become one leaves as U+FFFD.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def is_inside_code_point(self) -> bool:
        """Whether bytes are held back because the rest of their code point has not come yet."""
        return bool(self._decoder.getstate()[0])

    def feed(self, piece: bytes) -> str:
        """Return the text that ``piece`` completes."""
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """Return what is left: U+FFFD if the last code point is unfinished, else nothing."""
        return self._decoder.decode(b"", final=True)
