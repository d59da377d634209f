"""One answer on its way out: drawn tokens become text, and the text events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.contract.decoder import Sampled, Tokenizer
from localllm.contract.generation import (
    CallDelta,
    ChoiceFinished,
    Chunk,
    FinishReason,
    TokenAlternative,
    TokenLogprob,
)
from localllm.engine.detokenizer import Detokenizer
from localllm.engine.held_content import HeldContent
from localllm.engine.stopping import StopStrings


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """What all choices of a request have in common: when to end, what to report."""

    max_tokens: int  # the request's own limit or what its context has left, whichever is less
    stops: StopStrings
    include_stop: bool
    with_logprobs: bool


class Answer:
    """One choice, all of whose text is content. ``take`` what was drawn, then send what ``release`` returns.

    ``n_tokens`` counts the tokens of the answer, the one that means "end" left out; ``n_reasoning_tokens`` those of
    them that are thoughts. ``forced`` are the tokens that the answer wrote by itself, behind those drawn last.
    """

    n_reasoning_tokens = 0
    forced: Sequence[int] = ()

    def __init__(self, choice: int, rules: AnswerRules, tokenizer: Tokenizer) -> None:
        self.n_tokens = 0
        self.finished: ChoiceFinished | None = None
        self._choice = choice
        self._rules = rules
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer()
        self._content = HeldContent(rules.stops, include_stop=rules.include_stop)
        self._n_unsent_tokens = 0

    def take(self, drawn: Sequence[Sampled]) -> list[int]:
        """Go on with drawn tokens and return those that belong to the answer; ``finished`` is set when it is over.

        ``forced`` ones are the last of those that are returned.
        """
        taken: list[int] = []
        for sampled in drawn:
            if sampled.is_end:
                self._finish("stop")
                break
            taken.append(sampled.token)
            self.n_tokens += 1
            self._n_unsent_tokens += 1
            self._add(sampled)
            if self.finished is None and self.n_tokens >= self._rules.max_tokens:
                self._finish("length")
            if self.finished is not None:
                break
        return taken

    def release(self) -> Sequence[Chunk | CallDelta]:
        """Return what is final and was not sent yet, in order."""
        text, logprobs = self._content.release(is_final=self.finished is not None)
        if not text and not logprobs:
            return ()
        n_tokens, self._n_unsent_tokens = self._n_unsent_tokens, 0
        return (Chunk(self._choice, text, n_tokens, logprobs),)

    def _add(self, sampled: Sampled) -> None:
        """Go on with the text of a token."""
        piece = self._tokenizer.piece(sampled.token)
        text = self._detokenizer.feed(piece)
        if self._rules.with_logprobs:
            start = self._content.end
            end = start + len(text) + self._detokenizer.is_inside_code_point
            self._content.add_logprob(start, end, self._entry(sampled, piece))
        self._append(text)

    def _append(self, text: str) -> None:
        """Go on with content; a stop string in it ends the answer."""
        self._content.append(text)
        if self._content.stop is not None:
            self.finished = ChoiceFinished(self._choice, self._reason("stop"), self._content.stop)

    def _finish(self, reason: FinishReason) -> None:
        """End the answer for another reason than a stop string: what was held back goes out after all."""
        self._end_text()
        if self.finished is None:
            self.finished = ChoiceFinished(self._choice, self._reason(reason))

    def _end_text(self) -> None:
        """Go on with what an unfinished code point leaves; in theory a stop string ends in U+FFFD."""
        self._append(self._detokenizer.finish())

    def _reason(self, reason: FinishReason) -> FinishReason:
        """Return what a reply that ends for ``reason`` tells for it."""
        return reason

    def _entry(self, sampled: Sampled, data: bytes) -> TokenLogprob:
        """Return what is reported of a token that was written as ``data``."""
        assert sampled.logprob is not None, "the decoder gives log-probabilities where they are asked for"
        top = []
        for token, logprob in sampled.top:
            piece = self._tokenizer.piece(token)
            top.append(TokenAlternative(_text(piece), piece, logprob))
        return TokenLogprob(_text(data), data, sampled.logprob, tuple(top))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
