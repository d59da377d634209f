"""Content on its way out: held back until no stop string can claim it, with the entries of its tokens."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from localllm.contract.generation import TokenLogprob
from localllm.engine.stopping import StopScanner, StopStrings


@dataclass(frozen=True, slots=True)
class _HeldLogprob:
    """A token's entry, until its text is out. It lies on the code points ``start`` .. ``end - 1`` of the content."""

    start: int
    end: int
    entry: TokenLogprob


class HeldContent:
    """The content of one choice. ``append`` what was written, then send what ``release`` returns.

    Positions are code points from the content's beginning: up to ``_n_out`` it has left, ``_text`` comes next.
    ``stop`` is the stop string that was found; nothing is to be appended after it.
    """

    __slots__ = ("_include_stop", "_logprobs", "_n_out", "_scanner", "_stops", "_text", "stop")

    def __init__(self, stops: StopStrings, *, include_stop: bool) -> None:
        self.stop: str | None = None
        self._stops = stops
        self._include_stop = include_stop
        self._scanner = StopScanner(stops) if stops.patterns else None  # most requests have none to look for
        self._text = ""
        self._n_out = 0
        self._logprobs: deque[_HeldLogprob] = deque()

    @property
    def end(self) -> int:
        """Where the content ends that was appended so far."""
        return self._n_out + len(self._text)

    def append(self, text: str) -> None:
        """Hold more text; a stop string in it ends the content."""
        self._text += text
        hit = None if self._scanner is None else self._scanner.feed(text)
        if hit is not None:
            n_used, self.stop = hit
            n_cut = len(text) - n_used + (0 if self._include_stop else len(self.stop))
            self._text = self._text[: len(self._text) - n_cut]

    def add_logprob(self, start: int, end: int, entry: TokenLogprob) -> None:
        """Hold the entry of a token that was written on the code points ``start`` .. ``end - 1``."""
        self._logprobs.append(_HeldLogprob(start, end, entry))

    def release(self, *, is_final: bool) -> tuple[str, tuple[TokenLogprob, ...]]:
        """Return what is certain and was not returned yet, text and entries.

        ``is_final``: something else follows, or nothing, so that no stop string can go on from here.
        """
        text, self._text = self._text, ""
        if self._scanner is not None and (n_held := self._scanner.n_held):
            if is_final:
                self._scanner = StopScanner(self._stops)
            else:
                text, self._text = text[:-n_held], text[-n_held:]
        self._n_out += len(text)
        return text, self._release_logprobs() if self._logprobs else ()

    def _release_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Return the entries of tokens whose text is out; at a stop string, also of the one that it cuts in two."""
        ready: list[TokenLogprob] = []
        is_cut = self.stop is not None
        while self._logprobs:
            held = self._logprobs[0]
            if (held.start >= self._n_out) if is_cut else (held.end > self._n_out):
                break
            ready.append(self._logprobs.popleft().entry)
        return tuple(ready)
