"""The fake decoder keeps the decoder contract, and notices whoever breaks it."""

from __future__ import annotations

import pytest

from localllm.contract.decoder import Capabilities, Clear, Copy, Plan, SequenceKey, Slice, Truncate
from localllm.contract.generation import SamplingParams
from localllm.testing.decoder_contract import CHECKS, Check
from localllm.testing.decoders import ContractViolation, EchoDecoder, FakeDecoder

TOKENS = tuple(b"a prompt of some length, with words in it")

MEMORIES = {
    "unified": Capabilities(context_length=100, n_cells=300, n_seq_max=4, n_batch=16),
    "streams": Capabilities(context_length=75, n_cells=300, n_seq_max=4, n_batch=64, layout="streams"),
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


VIOLATIONS = {
    "a hole": ((), (Slice(0, 5, (1,)),)),
    "an overlap": ((), (Slice(0, 3, (1,)),)),
    "n_batch": ((), (Slice(1, 0, (1,) * 17),)),
    "two slices": ((), (Slice(0, 4, (1,)), Slice(0, 5, (1,)))),
    "no tokens": ((), (Slice(0, 4, ()),)),
    "does not exist": ((), (Slice(4, 0, (1,)),)),
    "holds 4 positions": ((Truncate(0, 5),), ()),
    "source holds 4": ((Copy(0, 1, 5),), ()),
    "not an empty sequence": ((Copy(0, 0, 4),), ()),
    "can't": ((), (Slice(0, 4, (1,), (SequenceKey("nobody", 0),)),)),
}


@pytest.mark.parametrize("fault", [fault for fault in VIOLATIONS if fault != "can't"])
def test_the_fake_decoder_refuses(fault: str) -> None:
    decoder = FakeDecoder(MEMORIES["unified"])
    decoder.submit(Plan(slices=(Slice(0, 0, (1, 2, 3, 4)),)))
    decoder.collect()
    ops, slices = VIOLATIONS[fault]
    with pytest.raises(ContractViolation, match=fault):
        decoder.submit(Plan(ops, slices))
