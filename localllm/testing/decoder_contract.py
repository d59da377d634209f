"""What every decoder has to do, as checks that run against a loaded one: the fake, llama.cpp's, a third party's.

Use them from a test::

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_decoder_contract(check, decoder):
        check(decoder, tokens)

``tokens`` is a prompt of 16 tokens or more after which the model is sure of its greedy choices: a real decoder's
log-probabilities move a little with the shape of the batch, so that only clear winners are the same in all shapes.
The decoder's memory is empty before a check and after it, and two sequences or more are needed. A check for what
``Capabilities`` rule out passes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from localllm.contract.decoder import Clear, Copy, Decoder, Op, Plan, Sampled, SequenceKey, Slice, Truncate
from localllm.contract.generation import SamplingParams

Check = Callable[[Decoder, Sequence[int]], None]

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


def _fresh_answer(decoder: Decoder, prompt: Sequence[int], *, sampling: SamplingParams = GREEDY) -> list[int]:
    with following(decoder, prompt, sampling=sampling, request_id="fresh") as follower:
        follower.prefill()
        return follower.decode()


def _other_ending(tokens: Sequence[int]) -> list[int]:
    """Return a prompt that shares the first two thirds with ``tokens`` and then goes on with their beginning."""
    shared = 2 * len(tokens) // 3
    return [*tokens[:shared], *tokens[: len(tokens) - shared]]


def _n_shared(left: Sequence[int], right: Sequence[int]) -> int:
    return next(index for index, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1])


def check_prefill_and_decode_repeat(decoder: Decoder, tokens: Sequence[int]) -> None:
    """A prompt and its greedy answer, twice: the same tokens."""
    first = _fresh_answer(decoder, tokens)
    assert first
    assert _fresh_answer(decoder, tokens) == first


def check_a_chunked_prefill_equals_a_whole_one(decoder: Decoder, tokens: Sequence[int]) -> None:
    """However the prompt is cut, the answer is the same, and chunks before the last one draw nothing."""
    whole = _fresh_answer(decoder, tokens)
    for chunk in (1, 5, len(tokens) - 1):
        with following(decoder, tokens) as follower:
            follower.prefill(chunk=chunk)
            assert follower.decode() == whole, f"in chunks of {chunk}"


def check_a_copy_diverges(decoder: Decoder, tokens: Sequence[int]) -> None:
    """A copied prefix is worth a prefill, and source and copy go on without disturbing one another."""
    if not decoder.capabilities.can_copy:
        return
    other = _other_ending(tokens)
    shared = _n_shared(tokens, other)
    expected, other_expected = _fresh_answer(decoder, tokens), _fresh_answer(decoder, other)
    with (
        following(decoder, tokens, seq=0) as source,
        following(decoder, other, seq=1, held=shared, request_id="copy") as copy,
    ):
        source.prefill(until=shared)
        copy.prefill(ops=(Copy(0, 1, shared),))
        source.prefill()
        assert copy.decode() == other_expected
        assert source.decode() == expected


def check_a_partial_copy_diverges(decoder: Decoder, tokens: Sequence[int]) -> None:
    """The beginning of a longer sequence can be copied; the longer one stays whole."""
    if not (decoder.capabilities.can_copy and decoder.capabilities.can_truncate):
        return
    other = _other_ending(tokens)
    shared = _n_shared(tokens, other)
    expected, other_expected = _fresh_answer(decoder, tokens), _fresh_answer(decoder, other)
    with (
        following(decoder, tokens, seq=0) as source,
        following(decoder, other, seq=1, held=shared, request_id="copy") as copy,
    ):
        source.prefill()
        copy.prefill(ops=(Copy(0, 1, shared),))
        assert copy.decode() == other_expected
        assert source.decode() == expected


def check_a_truncated_sequence_goes_on_otherwise(decoder: Decoder, tokens: Sequence[int]) -> None:
    """What lies behind the cut is forgotten."""
    if not decoder.capabilities.can_truncate:
        return
    other = _other_ending(tokens)
    shared = _n_shared(tokens, other)
    expected = _fresh_answer(decoder, other)
    with following(decoder, other, held=shared) as second:
        decoder.open("first", GREEDY, tokens)
        first = Follower(decoder, list(tokens), 0, "first")
        first.prefill()
        first.decode()
        decoder.close("first")
        second.prefill(ops=(Truncate(0, shared),))
        assert second.decode() == expected


def check_two_sequences_in_one_batch_equal_each_alone(decoder: Decoder, tokens: Sequence[int]) -> None:
    """Sequences don't see one another, neither while prompts are evaluated nor while answers are written."""
    other = list(reversed(tokens))
    expected, other_expected = _fresh_answer(decoder, tokens), _fresh_answer(decoder, other)
    half = min(len(tokens), decoder.capabilities.n_batch // 2)
    with (
        following(decoder, tokens, seq=0) as left,
        following(decoder, other, seq=1, request_id="other") as right,
    ):
        while left.held < len(tokens):
            parts = [part.next_slice(part.prompt[part.held : part.held + half]) for part in (left, right)]
            drawn = run_plan(decoder, *parts)
            left.take(drawn)
            right.take(drawn)
        while active := [part for part in (left, right) if len(part.answer) < N_DRAWN and not part.is_over]:
            drawn = run_plan(decoder, *(part.decode_slice() for part in active))
            for part in active:
                part.take(drawn)
        assert left.answer[:N_DRAWN] == expected
        assert right.answer[:N_DRAWN] == other_expected


def check_a_decode_rides_along_with_a_prefill(decoder: Decoder, tokens: Sequence[int]) -> None:
    """An answer goes on unchanged while another prompt is evaluated in the same batches."""
    expected = _fresh_answer(decoder, tokens)
    other = list(reversed(tokens))
    with (
        following(decoder, tokens, seq=1) as writing,
        following(decoder, other, seq=0, request_id="other") as reading,
    ):
        writing.prefill()
        while len(writing.answer) < N_DRAWN and not writing.is_over:
            parts = [writing.decode_slice()]
            if reading.held < len(other):
                parts.append(reading.next_slice(other[reading.held : reading.held + 3]))
            writing.take(run_plan(decoder, *parts))
        assert writing.answer[:N_DRAWN] == expected


def check_a_cleared_sequence_can_be_used_again(decoder: Decoder, tokens: Sequence[int]) -> None:
    """Clear and the first tokens of something else may come in one plan."""
    other = list(reversed(tokens))
    expected = _fresh_answer(decoder, other)
    with following(decoder, other) as second:
        decoder.open("first", GREEDY, tokens)
        Follower(decoder, list(tokens), 0, "first").prefill()
        decoder.close("first")
        second.prefill(ops=(Clear(0),))
        assert second.decode() == expected


def check_choices_draw_from_one_row_by_their_seeds(decoder: Decoder, tokens: Sequence[int]) -> None:
    """Choice k of a request draws what a request of its own would draw with ``seed + k``."""
    n, seed = 4, 11
    keys = tuple(SequenceKey("choices", index) for index in range(n))
    sampling = SamplingParams(temperature=1.0, seed=seed, n=n)
    with following(decoder, tokens, sampling=sampling, request_id="choices") as follower:
        follower.prefill(until=len(tokens) - 1)
        drawn = run_plan(decoder, Slice(0, len(tokens) - 1, (tokens[-1],), keys))
    for index, key in enumerate(keys):
        alone = SamplingParams(temperature=1.0, seed=seed + index)
        with following(decoder, tokens, sampling=alone) as follower:
            follower.prefill(until=len(tokens) - 1)
            follower.prefill()
            assert follower.answer[0] == drawn[key][0].token, f"choice {index}"


def check_a_seed_repeats_its_answer(decoder: Decoder, tokens: Sequence[int]) -> None:
    """The same seed in the same shapes writes the same answer, whatever was drawn for others meanwhile."""
    sampling = SamplingParams(temperature=1.0, seed=5)
    first = _fresh_answer(decoder, tokens, sampling=sampling)
    _fresh_answer(decoder, list(reversed(tokens)), sampling=SamplingParams(temperature=1.0, seed=6))
    assert _fresh_answer(decoder, tokens, sampling=sampling) == first


def check_a_banned_token_is_not_drawn(decoder: Decoder, tokens: Sequence[int]) -> None:
    """A bias of -100 bans a token."""
    favourite = _fresh_answer(decoder, tokens)[0]
    banned = SamplingParams(temperature=0.0, logit_bias=((favourite, -100.0),))
    assert favourite not in _fresh_answer(decoder, tokens, sampling=banned)


def check_log_probabilities_come_when_asked_for(decoder: Decoder, tokens: Sequence[int]) -> None:
    """The chosen token's and the most likely ones', best first; and none when nobody asks."""
    for asked in (None, 0, 3):
        sampling = SamplingParams(temperature=0.0, logprobs=asked)
        with following(decoder, tokens, sampling=sampling) as follower:
            follower.prefill(until=len(tokens) - 1)
            part = follower.next_slice(tokens[-1:])
            (sampled, *_) = run_plan(decoder, part)[follower.key]
        if asked is None:
            assert sampled.logprob is None
            assert sampled.top == ()
            continue
        assert sampled.logprob is not None
        assert sampled.logprob <= 0
        assert len(sampled.top) == asked
        assert [logprob for _, logprob in sampled.top] == sorted((pair[1] for pair in sampled.top), reverse=True)
        if asked:
            assert sampled.top[0] == (sampled.token, sampled.logprob), "greedy chooses the most likely token"


def check_a_closed_request_is_gone(decoder: Decoder, tokens: Sequence[int]) -> None:
    """Its id can be opened again, with nothing left of the first one's state."""
    sampling = SamplingParams(temperature=1.0, seed=3)
    expected = _fresh_answer(decoder, tokens, sampling=sampling)
    decoder.open("fresh", SamplingParams(temperature=1.0, seed=4, n=3), tokens)
    decoder.close("fresh")
    assert _fresh_answer(decoder, tokens, sampling=sampling) == expected


CHECKS: tuple[Check, ...] = (
    check_prefill_and_decode_repeat,
    check_a_chunked_prefill_equals_a_whole_one,
    check_a_copy_diverges,
    check_a_partial_copy_diverges,
    check_a_truncated_sequence_goes_on_otherwise,
    check_two_sequences_in_one_batch_equal_each_alone,
    check_a_decode_rides_along_with_a_prefill,
    check_a_cleared_sequence_can_be_used_again,
    check_choices_draw_from_one_row_by_their_seeds,
    check_a_seed_repeats_its_answer,
    check_a_banned_token_is_not_drawn,
    check_log_probabilities_come_when_asked_for,
    check_a_closed_request_is_gone,
)
