"""Cells and sequence ids are counted as a memory that writes down every cell counts them."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.contract.decoder import Capabilities, Clear, Copy, Truncate
from localllm.engine.budget import Memory, StreamCells, UnifiedCells

MAX_EXAMPLES = 3000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 200
N_SEQ = 4
N_CELLS = 10_000


@dataclass
class NaiveCells:
    """Each sequence as the list of its cells."""

    held: list[list[object]] = field(default_factory=lambda: [[] for _ in range(N_SEQ)])

    def used_by(self, holds: list[tuple[int, int]]) -> int:
        return len({id(cell) for seq, length in holds for cell in self.held[seq][:length]})

    @property
    def n_used(self) -> int:
        return self.used_by([(seq, len(cells)) for seq, cells in enumerate(self.held)])


seqs = st.integers(0, N_SEQ - 1)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("grow"), seqs, st.integers(1, 4)),
        st.tuples(st.just("truncate"), seqs, st.integers(0, 8)),
        st.tuples(st.just("copy"), seqs, seqs, st.integers(1, 8)),
    ),
    max_size=40,
)


def some_holds(model: NaiveCells) -> list[list[tuple[int, int]]]:
    """All sets of whole sequences, alone and with half of one more."""
    lengths = [len(held) for held in model.held]
    whole = [
        [(seq, lengths[seq]) for seq in chosen]
        for n in range(N_SEQ + 1)
        for chosen in itertools.combinations(range(N_SEQ), n)
    ]
    return whole + [
        [(part, lengths[part] // 2), *holds]
        for holds in whole
        for part in range(N_SEQ)
        if part not in dict(holds) and lengths[part]
    ]


@settings(max_examples=MAX_EXAMPLES, deadline=None)
@given(changes)
def test_unified_cells_equal_a_list_of_cells(steps: list[tuple]) -> None:
    cells, model = UnifiedCells(N_CELLS), NaiveCells()
    for name, *arguments in steps:
        if name == "grow":
            seq, n = arguments
            cells.grow(seq, n)
            model.held[seq] += [object() for _ in range(n)]
        elif name == "truncate":
            seq, length = arguments
            length = min(length, len(model.held[seq]))
            cells.truncate(seq, length)
            del model.held[seq][length:]
        else:
            source, target, length = arguments
            if not model.held[source] or source == target:
                continue
            cells.truncate(target, 0)
            del model.held[target][:]
            length = min(length, len(model.held[source]))
            cells.copy(source, target, length)
            model.held[target] = model.held[source][:length]
        cells.check()
        assert cells.n_used == model.n_used
        assert [cells.length(seq) for seq in range(N_SEQ)] == [len(held) for held in model.held]
        assert cells.free_for(0) == N_CELLS - model.n_used
    for holds in some_holds(model):
        spare = N_CELLS - model.used_by(holds)
        assert cells.fits(holds, spare)
        assert not cells.fits(holds, spare + 1)


def test_a_stream_is_bounded_by_itself_only() -> None:
    cells = StreamCells(n_cells=30, n_seq_max=3)
    cells.grow(0, 10)
    assert cells.free_for(0) == 0
    assert cells.free_for(1) == 10
    cells.copy(0, 1, 4)
    assert cells.free_for(1) == 6
    cells.truncate(0, 0)
    assert cells.free_for(0) == 10
    assert cells.fits([(1, 4)], 1000)
    cells.check()


def test_operations_come_out_once_and_in_order() -> None:
    memory = Memory(Capabilities(context_length=50, n_cells=100, n_seq_max=3, n_batch=8))
    first, second = memory.take_id(), memory.take_id()
    memory.cells.grow(first, 10)
    memory.copy(first, second, 6)
    memory.truncate(second, 4)
    memory.truncate(second, 4)  # holds no more: nothing to do
    memory.give_back(first)
    assert memory.take_ops() == (Copy(first, second, 6), Truncate(second, 4), Clear(first))
    assert memory.take_ops() == ()
    assert memory.n_free_ids == 2
    assert memory.take_id() == first, "the lowest free id comes first"
    memory.check([first, second])


def test_an_id_that_never_held_anything_is_not_cleared() -> None:
    memory = Memory(Capabilities(context_length=50, n_cells=100, n_seq_max=3, n_batch=8))
    memory.give_back(memory.take_id())
    assert memory.take_ops() == ()


@pytest.mark.parametrize("layout", ["unified", "streams"])
def test_a_context_that_does_not_fit_the_cells_is_refused(layout: str) -> None:
    capabilities = Capabilities(context_length=101, n_cells=100 if layout == "unified" else 399, n_seq_max=4, n_batch=8)
    capabilities = Capabilities(context_length=101, n_cells=capabilities.n_cells, n_seq_max=4, n_batch=8, layout=layout)
    with pytest.raises(ValueError, match="context_length is 101"):
        Memory(capabilities)
