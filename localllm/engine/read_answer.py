"""One answer whose text is read on its way out: what is a thought, what is content, what is a call."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

from localllm.contract.chat_format import CallFormat, ReplyRules, ThoughtFormat
from localllm.contract.decoder import Sampled, Tokenizer
from localllm.contract.generation import CallDelta, ChoiceFinished, Chunk, FinishReason, TokenLogprob
from localllm.engine.answer import Answer, AnswerRules
from localllm.engine.reply_reader import CallPart, Part, ReplyReader, TextPart

_NO_MARKERS: Final = {"style", "name_key", "arguments_key", "id_key"}  # strings of a call format that mark nothing
_MAX_CODE_POINT_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class _WrittenToken:
    """A token's entry, until it is known what its text is: the code points ``start`` .. ``end - 1`` of the reply."""

    start: int
    end: int
    entry: TokenLogprob


class ReadAnswer(Answer):
    """One choice whose text is read by a request's :class:`ReplyRules`.

    Stop strings are looked for in content only; one in content behind a call ends the reply as "tool_calls", as every
    reply with a call does that is not cut off by its length, and is told beside that. Log-probabilities are reported
    for tokens with a character of content; one without any text goes with the character behind it.

    A thought that has spent its budget is closed by the answer itself: ``forced`` are the tokens that do so.
    """

    def __init__(self, choice: int, rules: AnswerRules, tokenizer: Tokenizer, reply: ReplyRules) -> None:
        super().__init__(choice, rules, tokenizer)
        self._reply = reply
        self._markers = _all_markers(reply)
        self._reader = ReplyReader(reply)
        self._n_read = 0  # code points that the reader was given
        self._has_calls = False  # that were told; the reader may know of more
        self._is_closing = False  # nothing more can be done about the open thought; a call in it may still be possible
        self._events: list[Chunk | CallDelta] = []
        self._written: deque[_WrittenToken] = deque()

    def take(self, drawn: Sequence[Sampled]) -> list[int]:
        """Go on as :class:`Answer` does, and close a thought that has spent its budget."""
        taken = super().take(drawn)
        self.forced = self._close_thought() if self.finished is None and self._is_over_budget() else ()
        return [*taken, *self.forced]

    def release(self) -> Sequence[Chunk | CallDelta]:
        """Return what is final and was not sent yet, in the order of the reply."""
        self._let_content_out(is_final=self.finished is not None)
        events, self._events = self._events, []
        return events

    def _add(self, sampled: Sampled) -> None:
        data = self._tokenizer.piece(sampled.token) or self._marker(sampled.token)
        text = self._detokenizer.feed(data)
        if self._rules.with_logprobs and sampled.logprob is not None:
            n_chars = len(text) + self._detokenizer.is_inside_code_point
            end = self._n_read + max(n_chars, 1)
            self._written.append(_WrittenToken(self._n_read, end, self._entry(sampled, data)))
        was_in_thought = self._reader.in_thought
        self._feed(text)
        self.n_reasoning_tokens += was_in_thought or self._reader.in_thought

    def _marker(self, token: int) -> bytes:
        """Return how a control token is written where it is part of a marker; others stay out of sight."""
        spelling = self._tokenizer.spelling(token)
        text = spelling.decode("utf-8", "replace").strip()
        return spelling if text and text in self._markers else b""

    def _feed(self, text: str) -> None:
        if text:
            self._n_read += len(text)
            self._pass_on(self._reader.feed(text))

    def _end_text(self) -> None:
        self._feed(self._detokenizer.finish())
        if self.finished is None:
            self._pass_on(self._reader.finish())

    def _reason(self, reason: FinishReason) -> FinishReason:
        return "tool_calls" if reason == "stop" and self._has_calls else reason

    def _pass_on(self, parts: Sequence[Part]) -> None:
        """Make events of what was read, up to where the reply ends."""
        for part in parts:
            if isinstance(part, CallPart):
                self._pass_call_on(part)
            elif part.region == "content":
                self._pass_content_on(part)
            else:
                self._let_content_out(is_final=True)
                self._put(Chunk(self._choice, part.text, self._count_sent(), region=part.region))
                self._forget_tokens(part.start + len(part.text))
            if self.finished is not None:
                return

    def _pass_call_on(self, part: CallPart) -> None:
        if part.index and not self._reply.parallel:
            self.finished = ChoiceFinished(self._choice, "tool_calls")
            return
        self._has_calls = True
        self._let_content_out(is_final=True)
        self._put(CallDelta(self._choice, part.index, part.name, part.arguments, self._count_sent()))

    def _pass_content_on(self, part: TextPart) -> None:
        """Hold content, with the entries of the tokens that it is made of."""
        start, end = part.start, part.start + len(part.text)
        self._forget_tokens(start)
        offset = self._content.end - start
        while self._written and self._written[0].start < end:
            token = self._written.popleft()
            self._content.add_logprob(max(token.start, start) + offset, min(token.end, end) + offset, token.entry)
        self._append(part.text)

    def _forget_tokens(self, before: int) -> None:
        """Drop the entries of tokens that end at ``before`` or earlier: they turned out to be no content."""
        while self._written and self._written[0].end <= before:
            self._written.popleft()

    def _let_content_out(self, *, is_final: bool) -> None:
        text, logprobs = self._content.release(is_final=is_final)
        if text or logprobs:
            self._put(Chunk(self._choice, text, self._count_sent(), logprobs))

    def _put(self, event: Chunk | CallDelta) -> None:
        """Put an event out, joined with the last one if that goes on."""
        joined = _joined(self._events[-1], event) if self._events else None
        if joined is None:
            self._events.append(event)
        else:
            self._events[-1] = joined

    def _count_sent(self) -> int:
        """Return how many tokens no event has counted yet; the next one does."""
        n_tokens, self._n_unsent_tokens = self._n_unsent_tokens, 0
        return n_tokens

    def _is_over_budget(self) -> bool:
        """Whether a thought is open that must not go on. A code point is finished first, if it ever is."""
        budget = self._reply.thought_budget
        if budget is None or not self._reader.in_thought:
            self._is_closing = False
            return False
        n_over = self.n_reasoning_tokens - budget
        is_waiting = self._detokenizer.is_inside_code_point and n_over < _MAX_CODE_POINT_BYTES
        return n_over >= 0 and not is_waiting and not self._is_closing

    def _close_thought(self) -> list[int]:
        """Write what closes the thought and return its tokens: none where the answer ends before they do."""
        assert self._reply.thought is not None, "only a thought with a format can be open"
        self._is_closing = True
        text = _closing(self._reply.thought)
        tokens = self._tokenizer.encode(text, add_special=False, parse_special=True)
        if self.n_tokens + len(tokens) > self._rules.max_tokens:
            return []
        n_before = self.n_reasoning_tokens
        forced = super().take([Sampled(token) for token in tokens])
        self.n_reasoning_tokens = n_before + len(forced)  # also what stands behind the marker
        return forced


def _all_markers(reply: ReplyRules) -> str:
    """Return all markers of a reply as one text; no marker holds what stands between them."""
    markers = [*reply.content_open, *reply.content_close]
    if reply.thought is not None:
        markers += [reply.thought.open, reply.thought.close]
    if reply.calls is not None:
        markers += [*_strings(reply.calls), *reply.calls.also_open]
    return "\0".join(markers)


def _strings(calls: CallFormat) -> list[str]:
    values = [getattr(calls, field.name) for field in fields(calls) if field.name not in _NO_MARKERS]
    return [value for value in values if isinstance(value, str)]


def _closing(thought: ThoughtFormat) -> str:
    """Return what closes a thought: the marker between line ends, as models write it.

    Not so where the marker begins the next message (``<|start|>assistant``): its header goes on behind it.
    """
    close = thought.close.strip()
    return f"\n{close}" if close[-1:].isalnum() else f"\n{close}\n\n"


def _joined(last: Chunk | CallDelta, event: Chunk | CallDelta) -> Chunk | CallDelta | None:
    """Return two events in a row as one; None if the second begins something else."""
    n_tokens = last.tokens + event.tokens
    if isinstance(last, Chunk) and isinstance(event, Chunk) and last.region == event.region:
        return Chunk(last.choice, last.text + event.text, n_tokens, last.logprobs + event.logprobs, last.region)
    if isinstance(last, CallDelta) and isinstance(event, CallDelta) and last.index == event.index:
        return CallDelta(last.choice, last.index, last.name, last.arguments + event.arguments, n_tokens)
    return None
