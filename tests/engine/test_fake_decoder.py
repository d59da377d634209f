"""The fake decoder keeps the decoder contract, and notices whoever breaks it."""

from __future__ import annotations

import pytest

from localllm.contract.decoder import Capabilities, Clear, Copy, Plan, SequenceKey, Slice, StateSaving, Truncate
from localllm.contract.generation import SamplingParams
from localllm.testing.decoder_contract import CHECKS, Check
from localllm.testing.decoders import ContractViolation, EchoDecoder, FakeDecoder

TOKENS = tuple(b"a prompt of some length, with words in it")

SAVING = StateSaving(ram_bytes=10_000, bytes_per_token=8)

MEMORIES = {
    "unified": Capabilities(context_length=100, n_cells=300, n_seq_max=4, n_batch=16, can_score=True, saving=SAVING),
    "streams": Capabilities(context_length=75, n_cells=300, n_seq_max=4, n_batch=64, layout="streams", saving=SAVING),
    "whole": Capabilities(context_length=100, n_cells=300, n_seq_max=4, n_batch=64, can_truncate=False),
    "no copy": Capabilities(context_length=100, n_cells=300, n_seq_max=4, n_batch=64, can_copy=False),
}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("tokens_per_draw", [1, 3])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_fake_decoder_keeps_the_contract(check: Check, tokens_per_draw: int, memory: str) -> None:
    decoder = FakeDecoder(MEMORIES[memory], end_one_in=40, tokens_per_draw=tokens_per_draw)
    check(decoder, TOKENS)
    assert decoder.memory.n_cells_used == 0
    assert decoder.open_requests == frozenset()


def test_the_echo_decoder_answers_with_the_prompt_and_ends() -> None:
    decoder = EchoDecoder(MEMORIES["unified"])
    decoder.open("r", SamplingParams(), b"hi")
    key = SequenceKey("r", 0)
    drawn, position, tokens = [], 0, tuple(b"hi")
    while not drawn or not drawn[-1].is_end:
        decoder.submit(Plan(slices=(Slice(0, position, tokens, (key,)),)))
        drawn += decoder.collect()[key]
        position, tokens = position + len(tokens), (drawn[-1].token,)
    assert bytes(sampled.token for sampled in drawn[:-1]) == b"hi"


BROKEN_PLANS = {
    "a hole": ((), (Slice(0, 5, (1,)),)),
    "an overlap": ((), (Slice(0, 3, (1,)),)),
    "n_batch is 16": ((), (Slice(1, 0, (1,) * 17),)),
    "two slices": ((), (Slice(0, 4, (1,)), Slice(0, 5, (1,)))),
    "no tokens": ((), (Slice(0, 4, ()),)),
    "sequence 4 does not exist": ((), (Slice(4, 0, (1,)),)),
    "Truncate.* holds 4 positions": ((Truncate(0, 5),), ()),
    "Copy.* holds 4 positions": ((Copy(0, 1, 5),), ()),
    "not an empty sequence": ((Copy(0, 0, 4),), ()),
}


def holding(decoder: FakeDecoder, tokens: tuple[int, ...] = (1, 2, 3, 4), seq: int = 0) -> FakeDecoder:
    run(decoder, slices=(Slice(seq, decoder.memory.held(seq), tokens),))
    return decoder


def run(decoder: FakeDecoder, ops: tuple = (), slices: tuple = ()) -> None:
    decoder.submit(Plan(ops, slices))
    decoder.collect()


@pytest.mark.parametrize("fault", BROKEN_PLANS)
def test_a_broken_plan_is_refused(fault: str) -> None:
    decoder = holding(FakeDecoder(MEMORIES["unified"]))
    with pytest.raises(ContractViolation, match=fault):
        run(decoder, *BROKEN_PLANS[fault])


def test_a_memory_of_whole_sequences_refuses_parts() -> None:
    for op in (Truncate(0, 3), Copy(0, 1, 3)):
        with pytest.raises(ContractViolation, match="refuse"):
            run(holding(FakeDecoder(MEMORIES["whole"])), (op,))
    run(holding(FakeDecoder(MEMORIES["whole"])), (Truncate(0, 4), Copy(0, 1, 4)))


def test_a_memory_that_cannot_copy_refuses_to() -> None:
    with pytest.raises(ContractViolation, match="can't copy"):
        run(holding(FakeDecoder(MEMORIES["no copy"])), (Copy(0, 1, 4),))


def test_more_cells_than_there_are_is_refused() -> None:
    unified = FakeDecoder(Capabilities(context_length=20, n_cells=20, n_seq_max=4, n_batch=16))
    holding(holding(unified, (1,) * 16), (1,) * 4)
    run(unified, (Copy(0, 1, 20),))  # shares its cells
    with pytest.raises(ContractViolation, match="21 cells in use"):
        holding(unified, (1,), seq=1)
    streams = FakeDecoder(Capabilities(context_length=5, n_cells=20, n_seq_max=4, n_batch=16, layout="streams"))
    holding(streams, (1,) * 5)
    with pytest.raises(ContractViolation, match="a stream has 5 cells"):
        holding(streams, (1,))


def test_more_rows_than_outputs_is_refused() -> None:
    decoder = FakeDecoder(Capabilities(context_length=20, n_cells=20, n_seq_max=4, n_batch=16, n_outputs_max=1))
    decoder.open("r", SamplingParams(n=2), (1,))
    slices = tuple(Slice(seq, 0, (1,), (SequenceKey("r", seq),)) for seq in range(2))
    with pytest.raises(ContractViolation, match="2 output rows"):
        run(decoder, (), slices)


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        (SequenceKey("nobody", 0), "not open"),
        (SequenceKey("r", 1), "has 1 choices"),
        (SequenceKey("r", 0), "does not hold its own prompt"),
    ],
)
def test_a_row_that_is_not_the_choice_s_own_is_refused(key: SequenceKey, fault: str) -> None:
    decoder = FakeDecoder(MEMORIES["unified"])
    decoder.open("r", SamplingParams(), (1, 2))
    with pytest.raises(ContractViolation, match=fault):
        run(decoder, (), (Slice(0, 0, (1, 3), (key,)),))


def test_calls_out_of_order_are_refused() -> None:
    decoder = FakeDecoder(MEMORIES["unified"])
    with pytest.raises(ContractViolation, match="nothing was submitted"):
        decoder.collect()
    decoder.submit(Plan((Clear(0),)))
    with pytest.raises(ContractViolation, match="before the last one was collected"):
        decoder.submit(Plan((Clear(0),)))
    decoder.collect()
    with pytest.raises(ContractViolation, match="an empty plan"):
        decoder.submit(Plan())
    with pytest.raises(ContractViolation, match="not open"):
        decoder.close("r")
    decoder.open("r", SamplingParams(), (1,))
    with pytest.raises(ContractViolation, match="open already"):
        decoder.open("r", SamplingParams(), (1,))
    with pytest.raises(ContractViolation, match="empty prompt"):
        decoder.open("s", SamplingParams(), ())
