"""One answer on its way out: drawn tokens become text, held back until no stop string can claim it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from localllm.contract.decoder import Sampled, Tokenizer
from localllm.contract.generation import ChoiceFinished, Chunk, FinishReason, TokenAlternative, TokenLogprob
from localllm.engine.detokenizer import Detokenizer
from localllm.engine.stopping import StopScanner, StopStrings


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """What all choices of a request have in common: when to end, what to report."""

    max_tokens: int  # the request's own limit or what its context has left, whichever is less
    stops: StopStrings
    include_stop: bool
    with_logprobs: bool


@dataclass(frozen=True, slots=True)
class _HeldLogprob:
    """A token's entry, until its text is out. It lies on the code points ``start`` .. ``end - 1`` of the answer."""

    start: int
    end: int
    entry: TokenLogprob


class Answer:
    """The text of one choice. ``take`` what was drawn, then send what ``release`` returns.

    ``n_tokens`` counts the drawn tokens, the one that means "end" left out. Positions are code points from the
    answer's beginning: up to ``_n_out`` the text has left, ``_held`` comes next, then the bytes of an unfinished
    code point.
    """

    def __init__(self, choice: int, rules: AnswerRules, tokenizer: Tokenizer) -> None:
        self.n_tokens = 0
        self.finished: ChoiceFinished | None = None
        self._choice = choice
        self._rules = rules
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer()
        self._scanner = StopScanner(rules.stops)
        self._held = ""
        self._n_out = 0
        self._n_unsent_tokens = 0
        self._logprobs: deque[_HeldLogprob] = deque()

    def take(self, drawn: Sequence[Sampled]) -> list[int]:
        """Go on with drawn tokens and return those that belong to the answer; ``finished`` is set when it is over."""
        taken: list[int] = []
        for sampled in drawn:
            if sampled.is_end:
                self._finish("stop")
                break
            taken.append(sampled.token)
            self.n_tokens += 1
            self._n_unsent_tokens += 1
            self._add_text(sampled)
            if self.finished is None and self.n_tokens >= self._rules.max_tokens:
                self._finish("length")
            if self.finished is not None:
                break
        return taken

    def release(self) -> Chunk | None:
        """Return what is final and was not sent yet, or None if that is nothing."""
        n_ready = len(self._held)
        if self.finished is None:
            n_ready -= self._scanner.n_held
        text, self._held = self._held[:n_ready], self._held[n_ready:]
        self._n_out += n_ready
        logprobs = self._release_logprobs() if self._logprobs else ()
        if not text and not logprobs:
            return None
        n_tokens, self._n_unsent_tokens = self._n_unsent_tokens, 0
        return Chunk(self._choice, text, n_tokens, logprobs)

    def _add_text(self, sampled: Sampled) -> None:
        piece = self._tokenizer.piece(sampled.token)
        start = self._n_out + len(self._held)
        text = self._detokenizer.feed(piece)
        if self._rules.with_logprobs:
            end = start + len(text) + self._detokenizer.is_inside_code_point
            self._logprobs.append(_HeldLogprob(start, end, self._entry(sampled, piece)))
        self._append(text)

    def _append(self, text: str) -> None:
        """Hold more text; a stop string in it ends the answer."""
        self._held += text
        hit = self._scanner.feed(text)
        if hit is not None:
            n_used, stop = hit
            n_cut = len(text) - n_used + (0 if self._rules.include_stop else len(stop))
            self._held = self._held[: len(self._held) - n_cut]
            self.finished = ChoiceFinished(self._choice, "stop", stop)

    def _finish(self, reason: FinishReason) -> None:
        """End the answer for another reason than a stop string: what was held back goes out after all."""
        self._append(self._detokenizer.finish())  # an unfinished code point; in theory a stop string ends in U+FFFD
        if self.finished is None:
            self.finished = ChoiceFinished(self._choice, reason)

    def _entry(self, sampled: Sampled, piece: bytes) -> TokenLogprob:
        assert sampled.logprob is not None, "the decoder gives log-probabilities where they are asked for"
        top = []
        for token, logprob in sampled.top:
            data = self._tokenizer.piece(token)
            top.append(TokenAlternative(_text(data), data, logprob))
        return TokenLogprob(_text(piece), piece, sampled.logprob, tuple(top))

    def _release_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Return the entries of tokens whose text is out; at a stop string, also of the one that it cuts in two."""
        ready: list[TokenLogprob] = []
        is_cut = self.finished is not None and self.finished.stop is not None
        while self._logprobs:
            held = self._logprobs[0]
            if (held.start >= self._n_out) if is_cut else (held.end > self._n_out):
                break
            ready.append(self._logprobs.popleft().entry)
        return tuple(ready)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
