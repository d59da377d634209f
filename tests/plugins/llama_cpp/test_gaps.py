from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import Slice
from localllm_llama_cpp.gaps import CPU_RULE, FILLER_TOKEN, GPU_RULE, GapRule, gap_fillers

ANY = GapRule(shortest_run=1, longest_gap=2)


def decoding(*sequences: int) -> list[Slice]:
    return [Slice(seq, 10, (1,)) for seq in sequences]


def filled(slices: list[Slice], rule: GapRule, lengths: list[int] | None = None) -> list[int]:
    return [part.seq for part in gap_fillers(slices, lengths or [10] * 20, 512, rule)]


def passes(slices: list[Slice]) -> int:
    """How often ``llama_batch_allocr::split_equal`` starts a pass for slices of one token."""
    sequences = sorted(part.seq for part in slices)
    return sum(1 for i, seq in enumerate(sequences) if i == 0 or seq != sequences[i - 1] + 1)


def test_fillers_stand_at_the_end_of_what_the_idle_sequences_hold():
    assert gap_fillers(decoding(0, 2, 4), [10, 3, 10, 0, 10], 512, ANY) == [
        Slice(1, 3, (FILLER_TOKEN,)),
        Slice(3, 0, (FILLER_TOKEN,)),
    ]


def test_large_gaps_stay():
    assert filled(decoding(0, 3, 7), ANY) == [1, 2]


def test_nothing_is_filled_before_the_first_and_behind_the_last():
    assert filled(decoding(5, 6), ANY) == []


def test_short_runs_are_left_alone_where_single_rows_are_quick():
    assert filled(decoding(0, 2, 4, 6), CPU_RULE) == []
    assert filled(decoding(0, 1, 3, 5, 6), CPU_RULE) == []
    assert filled(decoding(0, 1, 4, 5, 9, 10), CPU_RULE) == [2, 3, 6, 7, 8]


def test_a_full_idle_sequence_is_left_alone():
    assert filled(decoding(0, 2, 4), ANY, [10, 512, 10, 10, 10]) == [3]


def test_prompts_bridge_a_gap_but_need_no_bridge():
    prompt = Slice(2, 0, (1, 2, 3))
    assert filled([*decoding(0), prompt], ANY) == []
    assert filled([*decoding(0), prompt, *decoding(4)], ANY) == [1, 3]


@pytest.mark.parametrize("rule", [CPU_RULE, GPU_RULE, ANY])
@given(
    sequences=st.sets(st.integers(0, 39), min_size=1),
    lengths=st.lists(st.integers(0, 64), min_size=40, max_size=40),
)
def test_fillers_touch_only_idle_sequences_with_room_and_save_passes(rule, sequences, lengths):
    slices = decoding(*sorted(sequences))
    fillers = gap_fillers(slices, lengths, 64, rule)
    touched = [part.seq for part in fillers]
    assert touched == sorted(set(touched))
    assert not sequences & set(touched)
    assert all(part.start == lengths[part.seq] < 64 for part in fillers)
    saved = passes(slices) - passes([*slices, *fillers])
    assert (saved > 0) == bool(fillers)
    assert len(fillers) <= rule.longest_gap * saved
