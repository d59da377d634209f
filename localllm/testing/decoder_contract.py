"""What every decoder has to do, as checks that run against a loaded one: the fake, llama.cpp's, a third party's.

Use them from a test::

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_decoder_contract(check, decoder):
        check(decoder, tokens)

``tokens`` is a prompt of 16 tokens or more after which the model is sure of its greedy choices: a real decoder's
log-probabilities move a little with the shape of the batch, so that only clear winners are the same in all shapes.
At least two of them are not among the last four.
The decoder's memory is empty before a check and after it, and two sequences or more are needed. A check for what
``Capabilities`` rule out passes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from localllm.contract.decoder import (
    Clear,
    Copy,
    Decoder,
    SavingDecoder,
    Scored,
    ScoringDecoder,
    SequenceKey,
    Slice,
    Truncate,
)
from localllm.contract.generation import SamplingParams
from localllm.testing.follower import GREEDY, N_DRAWN, Follower, following, run_plan

Check = Callable[[Decoder, Sequence[int]], None]


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


def _scores(decoder: Decoder, tokens: Sequence[int], chunk: int) -> tuple[list[Scored], int]:
    """Score all of a prompt but its first token, in chunks, and return what that gave and what was drawn at its end."""
    scored: list[Scored] = []
    with following(decoder, tokens) as follower:
        for start in range(0, len(tokens), chunk):
            targets = tuple(tokens[start + 1 : start + chunk + 1])
            part = follower.next_slice(tokens[start : start + chunk])
            follower.take(run_plan(decoder, replace(part, targets=targets, n_top=3)))
            scored += cast(ScoringDecoder, decoder).scores()[part.seq] if targets else ()
        return scored, follower.answer[0]


def check_a_prompt_is_scored_in_any_chunks(decoder: Decoder, tokens: Sequence[int]) -> None:
    """Each token after the first has its log-probability and the most likely ones; what is drawn stays the same."""
    capabilities = decoder.capabilities
    if not capabilities.can_score:
        return
    most = min(len(tokens), capabilities.n_batch, capabilities.n_outputs_max)
    whole, drawn = _scores(decoder, tokens, most)
    assert len(whole) == len(tokens) - 1
    assert drawn == _fresh_answer(decoder, tokens)[0]
    for scored in whole:
        assert scored.logprob <= 0
        assert [value for _, value in scored.top] == sorted((value for _, value in scored.top), reverse=True)
        assert len({token for token, _ in scored.top}) == len(scored.top) == 3
    for chunk in (1, min(5, most)):
        again, drawn_again = _scores(decoder, tokens, chunk)
        assert drawn_again == drawn
        assert all(abs(one.logprob - other.logprob) < 0.2 for one, other in zip(whole, again, strict=True))


def check_a_saved_sequence_goes_on_elsewhere(decoder: Decoder, tokens: Sequence[int]) -> None:
    """What was taken out of one sequence and put into another one is worth a prefill, and may be put back twice."""
    if decoder.capabilities.saving is None:
        return
    saving = cast(SavingDecoder, decoder)
    shared = 2 * len(tokens) // 3
    expected = _fresh_answer(decoder, tokens)
    with following(decoder, tokens, seq=0) as first:
        first.prefill(until=shared)
        state = saving.save(0)
        assert state is not None
        first.prefill()  # what goes on changes nothing about what was saved
        assert first.decode() == expected
    for seq in (1, 0):
        with following(decoder, tokens, seq=seq, held=shared) as again:
            assert saving.restore(seq, state, shared)
            again.prefill()
            assert again.decode() == expected, f"in sequence {seq}"


def check_a_sequence_is_put_back_beside_a_running_one(decoder: Decoder, tokens: Sequence[int]) -> None:
    """Neither disturbs the other."""
    if decoder.capabilities.saving is None:
        return
    saving = cast(SavingDecoder, decoder)
    other = list(reversed(tokens))
    expected, other_expected = _fresh_answer(decoder, tokens), _fresh_answer(decoder, other)
    with following(decoder, tokens, seq=1) as source:
        source.prefill(until=len(tokens) - 1)
        state = saving.save(1)
    assert state is not None
    with (
        following(decoder, other, seq=0, request_id="other") as beside,
        following(decoder, tokens, seq=1, held=len(tokens) - 1) as restored,
    ):
        beside.prefill()
        assert saving.restore(1, state, len(tokens) - 1)
        restored.prefill()
        assert beside.decode() == other_expected
        assert restored.decode() == expected


def check_forced_tokens_count_as_drawn(decoder: Decoder, tokens: Sequence[int]) -> None:
    """To force what a choice would draw anyway changes nothing: it knows of it, and so do its penalties."""
    window = 4
    first, second = [token for token in dict.fromkeys(tokens) if token not in tokens[-window:]][:2]
    # It wants to write the first, then the second, and either again only when it is out of sight.
    biases = ((first, 80.0), (second, 40.0))
    sampling = SamplingParams(temperature=0.0, logit_bias=biases, presence_penalty=100.0, repeat_last_n=window)
    expected = _fresh_answer(decoder, tokens, sampling=sampling)
    with following(decoder, tokens, sampling=sampling) as follower:
        follower.prefill()
        forced = expected[len(follower.answer) : -1][:2]
        decoder.force(follower.key, forced)
        follower.answer += forced
        assert follower.decode() == expected


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
    check_a_prompt_is_scored_in_any_chunks,
    check_a_saved_sequence_goes_on_elsewhere,
    check_a_sequence_is_put_back_beside_a_running_one,
    check_forced_tokens_count_as_drawn,
    check_a_closed_request_is_gone,
)
