"""Writes one answer with a bare decoder, step by step: what the checks of the decoder contract are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from localllm.contract.decoder import Clear, Decoder, Op, Plan, Sampled, SequenceKey, Slice
from localllm.contract.generation import SamplingParams

GREEDY = SamplingParams(temperature=0.0)
N_DRAWN = 6
"""Tokens that each answer is followed for."""


def run_plan(decoder: Decoder, *slices: Slice, ops: Sequence[Op] = ()) -> dict[SequenceKey, list[Sampled]]:
    """Submit one plan and collect it; exactly the keys of its slices must have drawn."""
    decoder.submit(Plan(tuple(ops), slices))
    drawn = {key: list(sampled) for key, sampled in decoder.collect().items()}
    assert drawn.keys() == {key for part in slices for key in part.sample}, "other choices drew than were asked to"
    assert all(drawn.values()), "a choice was asked to draw and drew nothing"
    return drawn


@dataclass
class Follower:
    """Writes one answer: holds a sequence, a request of one choice, and what was drawn for it."""

    decoder: Decoder
    prompt: list[int]
    seq: int
    request_id: str
    held: int = 0
    answer: list[int] = field(default_factory=list)
    is_over: bool = False

    @property
    def key(self) -> SequenceKey:
        """The only choice of the request."""
        return SequenceKey(self.request_id, 0)

    def prefill(self, *, until: int | None = None, chunk: int | None = None, ops: Sequence[Op] = ()) -> None:
        """Evaluate the prompt, or its first ``until`` tokens, in chunks; the whole prompt draws a token."""
        end = len(self.prompt) if until is None else until
        size = min(chunk or end, self.decoder.capabilities.n_batch)
        while self.held < end:
            part = self.next_slice(self.prompt[self.held : min(self.held + size, end)])
            self.take(run_plan(self.decoder, part, ops=ops))
            ops = ()

    def next_slice(self, tokens: Sequence[int]) -> Slice:
        """Return the slice that evaluates ``tokens`` next; the prompt's last token, and those of the answer, draw."""
        start, self.held = self.held, self.held + len(tokens)
        return Slice(self.seq, start, tuple(tokens), (self.key,) if self.held >= len(self.prompt) else ())

    def decode_slice(self) -> Slice:
        """Return the slice that evaluates what was drawn and is not evaluated yet."""
        return self.next_slice(self.answer[self.held - len(self.prompt) :])

    def take(self, drawn: dict[SequenceKey, list[Sampled]]) -> None:
        """Append what was drawn."""
        for sampled in drawn.get(self.key, ()):
            self.is_over = self.is_over or sampled.is_end
            self.answer.append(sampled.token)

    def decode(self) -> list[int]:
        """Go on until ``N_DRAWN`` tokens are there, or the answer ends; return them."""
        while len(self.answer) < N_DRAWN and not self.is_over:
            self.take(run_plan(self.decoder, self.decode_slice()))
        return self.answer[:N_DRAWN]


@contextmanager
def following(
    decoder: Decoder,
    prompt: Sequence[int],
    *,
    seq: int = 0,
    held: int = 0,
    sampling: SamplingParams = GREEDY,
    request_id: str = "follower",
) -> Iterator[Follower]:
    """Open a request for ``prompt`` on ``seq``, which holds ``held`` of its tokens; close and empty it afterwards."""
    decoder.open(request_id, sampling, prompt)
    try:
        yield Follower(decoder, list(prompt), seq, request_id, held)
    finally:
        decoder.close(request_id)
        run_plan(decoder, ops=(Clear(seq),))
