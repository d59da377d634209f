from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from localllm import Slice
from localllm_llama_cpp.gaps import FILLER_TOKEN, LONGEST_GAP, gap_fillers


def decoding(*sequences: int) -> list[Slice]:
    return [Slice(seq, 10, (1,)) for seq in sequences]


def passes(slices: list[Slice]) -> int:
    """How often ``llama_batch_allocr::split_equal`` starts a pass for slices of one token."""
    sequences = sorted(part.seq for part in slices)
    return sum(1 for i, seq in enumerate(sequences) if i == 0 or seq != sequences[i - 1] + 1)


def test_small_gaps_are_filled_at_the_end_of_what_the_idle_sequences_hold():
    lengths = [10, 3, 10, 0, 10]
    assert gap_fillers(decoding(0, 2, 4), lengths, 512) == [
        Slice(1, 3, (FILLER_TOKEN,)),
        Slice(3, 0, (FILLER_TOKEN,)),
    ]


def test_large_gaps_stay():
    assert gap_fillers(decoding(0, LONGEST_GAP + 2), [0] * 10, 512) == []


def test_a_full_idle_sequence_is_left_alone():
    assert gap_fillers(decoding(0, 2), [10, 512, 10], 512) == []


def test_prompts_need_no_bridge():
    prompt = Slice(2, 0, (1, 2, 3))
    assert gap_fillers([*decoding(0), prompt], [10, 5, 0], 512) == []
    assert gap_fillers([*decoding(0), prompt, *decoding(4)], [10, 5, 0, 7, 10], 512) == [
        Slice(1, 5, (FILLER_TOKEN,)),
        Slice(3, 7, (FILLER_TOKEN,)),
    ]


@given(st.sets(st.integers(0, 39), min_size=1), st.lists(st.integers(0, 64), min_size=40, max_size=40))
def test_fillers_touch_only_idle_sequences_with_room_and_save_passes(sequences, lengths):
    slices = decoding(*sorted(sequences))
    fillers = gap_fillers(slices, lengths, 64)
    touched = [part.seq for part in fillers]
    assert len(set(touched)) == len(touched)
    assert not sequences & set(touched)
    assert all(part.start == lengths[part.seq] < 64 for part in fillers)
    assert passes([*slices, *fillers]) <= passes(slices)
    assert len(fillers) <= LONGEST_GAP * (passes(slices) - passes([*slices, *fillers]))
