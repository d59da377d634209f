"""Answers fed with tokens that a test cuts itself, and what comes out of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from localllm.contract.chat_format import ReplyRules
from localllm.contract.decoder import Sampled
from localllm.contract.generation import CallDelta, Chunk
from localllm.engine.answer import Answer, AnswerRules
from localllm.engine.read_answer import ReadAnswer
from localllm.engine.stopping import StopStrings

Event = Chunk | CallDelta


class PieceTokenizer:
    """Token ids are indices into a list of pieces, and behind those, into one of control tokens."""

    def __init__(self, pieces: Sequence[bytes], control: Sequence[str] = ()) -> None:
        self._pieces = pieces
        self._control = control

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        raise AssertionError("an answer encodes nothing")

    def piece(self, token: int) -> bytes:
        return self._pieces[token] if token < len(self._pieces) else b""

    def spelling(self, token: int) -> bytes:
        n_pieces = len(self._pieces)
        return self._pieces[token] if token < n_pieces else self._control[token - n_pieces].encode()


def cut_into_pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(borders)]


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where the text ends by a stop string for the first time, and the longest one that it ends with there."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if found:
            return end, max(found, key=len)
    return None


def end() -> Sampled:
    return Sampled(0, is_end=True)


def drawn(tokens: Iterable[int]) -> list[Sampled]:
    """Tokens whose log-probabilities tell them apart: the n-th has -n."""
    return [Sampled(token, logprob=-float(index)) for index, token in enumerate(tokens)]


def answer_of(
    tokenizer: PieceTokenizer,
    reply: ReplyRules | None = None,
    *,
    stops: Sequence[str] = (),
    include_stop: bool = False,
    logprobs: bool = False,
    max_tokens: int = 10_000,
) -> Answer:
    answer_rules = AnswerRules(max_tokens, StopStrings.prepare(stops), include_stop, logprobs)
    if reply is None:
        return Answer(0, answer_rules, tokenizer)
    return ReadAnswer(0, answer_rules, tokenizer, reply)


def steps(answer: Answer, sampled: Sequence[Sampled], per_step: int = 1) -> list[list[Event]]:
    """Feed an answer up to its end; return what each step let out."""
    out: list[list[Event]] = []
    left = list(sampled)
    while answer.finished is None:
        batch, left = left[:per_step], left[per_step:]
        assert batch, "the answer goes on behind the last token"
        answer.take(batch)
        out.append(list(answer.release()))
    return out


def events_of(answer: Answer, sampled: Sequence[Sampled], per_step: int = 1) -> list[Event]:
    """Feed an answer up to its end; return all that it let out."""
    return list(itertools.chain.from_iterable(steps(answer, sampled, per_step)))


def told(events: Iterable[Event], choice: int = 0) -> list[tuple[str, str]]:
    """Join the events of one choice: ("content" or "reasoning", text) and ("0 name", arguments)."""
    out: list[tuple[str, str]] = []
    n_calls = 0
    for event in events:
        if event.choice != choice:
            continue
        if isinstance(event, Chunk):
            kind, text = event.region, event.text
        else:
            assert event.index == n_calls - (event.name is None), "the name comes once, with the first piece"
            n_calls += event.name is not None
            kind, text = (f"{event.index} {event.name}" if event.name else out[-1][0]), event.arguments
            assert kind.startswith(f"{event.index} ")
        if out and out[-1][0] == kind:
            out[-1] = (kind, out[-1][1] + text)
        elif kind != "content" or text:
            out.append((kind, text))
    return out


def reported(events: Iterable[Event]) -> list[int]:
    """Return which tokens of ``drawn`` have an entry."""
    return [int(-entry.logprob) for event in events for entry in event.logprobs]
