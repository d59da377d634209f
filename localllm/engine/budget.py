"""What the KV cache holds: sequence ids, cells under both layouts, and the operations that the next plan must carry."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Protocol

from localllm.contract.decoder import Capabilities, Clear, Copy, Op, Truncate


class Cells(Protocol):
    """Accounting of KV cells for one layout. Sequences that hold nothing need no preparation."""

    def free_for(self, seq: int) -> int:
        """Return how many positions ``seq`` can grow by now."""
        ...

    def grow(self, seq: int, n_tokens: int) -> None:
        """Add positions at the end of ``seq``."""
        ...

    def truncate(self, seq: int, length: int) -> None:
        """Keep the first ``length`` (0 allowed) positions of ``seq``."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Make empty ``target`` hold the first ``length`` positions of ``source``."""
        ...

    def length(self, seq: int) -> int:
        """Return the number of positions that ``seq`` holds."""
        ...

    def fits(self, holds: Iterable[tuple[int, int]], n_more: int) -> bool:
        """Tell whether ``n_more`` new cells fit beside the first ``length`` positions of each (seq, length).

        Cells that only other sequences hold count as free: those can be evicted.
        """
        ...

    def check(self) -> None:
        """Assert the invariants."""
        ...


class StreamCells:
    """Each sequence owns ``n_cells // n_seq_max`` cells. Nothing is shared, and nobody runs out by others' growth."""

    def __init__(self, n_cells: int, n_seq_max: int) -> None:
        self._capacity = n_cells // n_seq_max
        self._lengths = [0] * n_seq_max

    def free_for(self, seq: int) -> int:
        """Return what is left of the stream."""
        return self._capacity - self._lengths[seq]

    def grow(self, seq: int, n_tokens: int) -> None:
        """Add positions at the end of ``seq``."""
        self._lengths[seq] += n_tokens

    def truncate(self, seq: int, length: int) -> None:
        """Keep the first ``length`` positions of ``seq``."""
        self._lengths[seq] = length

    def copy(self, source: int, target: int, length: int) -> None:
        """Make empty ``target`` hold the first ``length`` positions of ``source``."""
        self._lengths[target] = length

    def length(self, seq: int) -> int:
        """Return the number of positions that ``seq`` holds."""
        return self._lengths[seq]

    def fits(self, holds: Iterable[tuple[int, int]], n_more: int) -> bool:
        """Every stream has room for a whole context, so that everything fits."""
        return True

    def check(self) -> None:
        """Assert that no stream is over-full."""
        assert all(0 <= length <= self._capacity for length in self._lengths)


class _Run:
    """Consecutive positions ``start`` .. ``end - 1`` whose cells are shared by all sequences below this node."""

    __slots__ = ("children", "end", "parent", "start")

    def __init__(self, parent: _Run | None, start: int, end: int) -> None:
        self.parent = parent
        self.start = start
        self.end = end
        self.children: set[_Run] = set()
        if parent is not None:
            parent.children.add(self)


class UnifiedCells:
    """One pool, in which a copied prefix shares the cells of its source.

    The sharing is a tree of runs: each sequence is a leaf (its own, perhaps empty, tail) and holds the runs on the way
    to the root. A cell is used as long as one leaf lies below its run. Inner runs have two children or more, so that
    the tree has at most twice as many nodes as there are sequences.
    """

    def __init__(self, n_cells: int) -> None:
        self._n_cells = n_cells
        self._root = _Run(None, 0, 0)
        self._leaves: dict[int, _Run] = {}
        self.n_used = 0

    def free_for(self, seq: int) -> int:
        """Return the free cells of the pool."""
        return self._n_cells - self.n_used

    def grow(self, seq: int, n_tokens: int) -> None:
        """Add positions at the end of ``seq``."""
        leaf = self._leaves.get(seq)
        if leaf is None:
            leaf = self._leaves[seq] = _Run(self._root, 0, 0)
        leaf.end += n_tokens
        self.n_used += n_tokens

    def truncate(self, seq: int, length: int) -> None:
        """Keep the first ``length`` positions of ``seq``."""
        leaf = self._leaves.get(seq)
        if leaf is None:
            return
        if length == 0:
            del self._leaves[seq]
        elif length >= leaf.start:
            self.n_used -= leaf.end - length
            leaf.end = length
            return
        else:
            self._leaves[seq] = _Run(self._run_ending_at(leaf, length), length, length)
        self._release(leaf)

    def copy(self, source: int, target: int, length: int) -> None:
        """Make empty ``target`` hold the first ``length`` positions of ``source``; no cell is used by that."""
        run = self._run_ending_at(self._leaves[source], length)
        self._leaves[target] = _Run(run, length, length)

    def length(self, seq: int) -> int:
        """Return the number of positions that ``seq`` holds."""
        leaf = self._leaves.get(seq)
        return 0 if leaf is None else leaf.end

    def fits(self, holds: Iterable[tuple[int, int]], n_more: int) -> bool:
        """Count the distinct cells behind ``holds``, a partly held run after those that are held whole."""
        counted: set[_Run] = set()
        n_held = 0
        for seq, length in sorted(holds, key=lambda hold: hold[1] < self.length(hold[0])):
            run: _Run | None = self._leaves.get(seq)
            while run is not None and run not in counted:
                n_held += max(0, min(run.end, length) - run.start)
                counted.add(run)
                run = run.parent
        return n_held + n_more <= self._n_cells

    def _run_ending_at(self, run: _Run, length: int) -> _Run:
        """Return the run on the way from ``run`` to the root that ends at ``length``, splitting one where needed.

        A leaf is always split, so that it stays the tail that its sequence alone grows.
        """
        while run.start >= length:
            assert run.parent is not None, "a run begins at 0, below every length that is asked for"
            run = run.parent
        if run.end == length and run.children:
            return run
        parent = run.parent
        assert parent is not None, "the root is empty: no length lies inside it"
        parent.children.remove(run)
        upper = _Run(parent, run.start, length)
        upper.children.add(run)
        run.parent, run.start = upper, length
        return upper

    def _release(self, leaf: _Run) -> None:
        """Take a childless run out, and with it the runs that nobody holds any more; join what need not be split."""
        run = leaf
        while (parent := run.parent) is not None and not run.children:
            self.n_used -= run.end - run.start
            parent.children.remove(run)
            run = parent
        if (parent := run.parent) is not None and len(run.children) == 1:
            (only,) = run.children
            only.start, only.parent = run.start, parent
            parent.children.remove(run)
            parent.children.add(only)

    def check(self) -> None:
        """Assert that the tree is sound and that its runs add up to the cells in use."""
        n_cells, todo, leaves = 0, [self._root], 0
        while todo:
            run = todo.pop()
            n_cells += run.end - run.start
            leaves += not run.children and run is not self._root
            assert run is self._root or len(run.children) != 1, "an inner run with one child should have been joined"
            for child in run.children:
                assert child.parent is run
                assert child.start == run.end <= child.end
                todo.append(child)
        assert leaves == len(self._leaves)
        assert n_cells == self.n_used <= self._n_cells, f"{n_cells} cells counted, {self.n_used} booked"


class Memory:
    """Sequence ids and cells together. Each change is booked at once and its operation waits for the next plan.

    ``joins_neighbours``: sequences are computed together only where their ids follow each other (llama.cpp splits a
    batch of streams into runs of consecutive ids), and an idle one can be moved out of the way.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        per_request = capabilities.n_cells
        if capabilities.layout == "streams":
            per_request //= capabilities.n_seq_max
        if not 1 < capabilities.context_length <= per_request:
            message = (
                f"context_length is {capabilities.context_length}, but the KV cache has room for {per_request} tokens "
                f"of one request: raise n_cells or lower context_length"
            )
            raise ValueError(message)
        self.cells: Cells = (
            UnifiedCells(capabilities.n_cells)
            if capabilities.layout == "unified"
            else StreamCells(capabilities.n_cells, capabilities.n_seq_max)
        )
        self.joins_neighbours = capabilities.layout == "streams" and capabilities.can_copy
        self._free_ids = list(range(capabilities.n_seq_max))
        self._ops: list[Op] = []
        self._sources: set[int] = set()  # of copies that may not have been done yet
        self._targets: set[int] = set()

    @property
    def n_free_ids(self) -> int:
        """Sequence ids that hold nothing."""
        return len(self._free_ids)

    @property
    def n_pending_copies(self) -> int:
        """Copies that the next plan will carry."""
        return sum(type(op) is Copy for op in self._ops)

    @property
    def lowest_free_id(self) -> int:
        """The id that ``take_id`` takes unless told otherwise; the caller made sure that there is one."""
        return self._free_ids[0]

    def is_free(self, seq: int) -> bool:
        """Whether a sequence id holds nothing."""
        return seq in self._free_ids

    def settled_free_id(self) -> int | None:
        """Return a free id that no copy is about to read or write, the lowest one, if there is any."""
        return min((seq for seq in self._free_ids if self.is_settled(seq)), default=None)

    def is_settled(self, seq: int) -> bool:
        """Whether no copy is about to read or write a sequence: some engines copy only when they next compute."""
        return seq not in self._sources and seq not in self._targets

    def is_copied(self, seq: int) -> bool:
        """Whether what a sequence holds is there, and not still to be copied from another one."""
        return seq not in self._targets

    def settle(self) -> None:
        """Book that a plan with slices takes along all operations so far: what is copied is there after it."""
        self._sources.clear()
        self._targets.clear()

    def take_id(self, seq: int | None = None) -> int:
        """Take a free sequence id, the lowest one by default, and return it."""
        if seq is None:
            return heapq.heappop(self._free_ids)
        self._free_ids.remove(seq)
        heapq.heapify(self._free_ids)
        return seq

    def give_back(self, seq: int) -> None:
        """Empty a sequence and free its id."""
        if self.cells.length(seq):
            self._ops.append(Clear(seq))
        self.cells.truncate(seq, 0)
        heapq.heappush(self._free_ids, seq)

    def truncate(self, seq: int, length: int) -> None:
        """Cut a sequence down to ``length`` (> 0) positions, where it holds more."""
        if length < self.cells.length(seq):
            self._ops.append(Truncate(seq, length))
            self.cells.truncate(seq, length)

    def copy(self, source: int, target: int, length: int) -> None:
        """Make empty ``target`` hold the first ``length`` (> 0) positions of ``source``."""
        self._ops.append(Copy(source, target, length))
        self._sources.add(source)
        self._targets.add(target)
        self.cells.copy(source, target, length)

    def take_ops(self) -> tuple[Op, ...]:
        """Return the operations since the last call, oldest first."""
        ops = tuple(self._ops)
        self._ops.clear()
        return ops

    def check(self, used_ids: Iterable[int]) -> None:
        """Assert that the ids are either free and empty or among ``used_ids``, and that the cells add up."""
        used = list(used_ids)
        assert not set(used) & set(self._free_ids)
        assert len(used) == len(set(used))
        assert len(self._free_ids) == len(set(self._free_ids))
        assert all(self.cells.length(seq) == 0 for seq in self._free_ids)
        self.cells.check()
