"""The sequences in the KV cache, running and idle: found by their tokens, evicted by age."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from localllm.engine.budget import Memory
from localllm.engine.radix import RadixTree
from localllm.engine.sequence import Choice, Resident, Scope


class Residents:
    """Owns which sequence id holds what for whom. A scope's prefixes are invisible to other scopes.

    A running sequence is found by all tokens that it was admitted with, evaluated or not yet; what it draws is added
    when it becomes idle.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._by_seq: dict[int, Resident] = {}
        self._idle: dict[int, Resident] = {}  # least recently used first
        self._trees: dict[Scope, RadixTree] = {}

    @property
    def n_idle(self) -> int:
        """Cached sequences that may be evicted."""
        return len(self._idle)

    def matches(self, scope: Scope, tokens: list[int], limit: int) -> Iterator[tuple[int, Resident]]:
        """Yield (common length, resident) for those that share a first token, longest first."""
        tree = self._trees.get(scope)
        if tree is not None:
            for length, seq in tree.match(tokens, limit):
                yield length, self._by_seq[seq]

    def oldest_idle(self) -> Resident | None:
        """Return the least recently used idle resident."""
        return next(iter(self._idle.values()), None)

    def evict(self) -> bool:
        """Let the least recently used idle resident go; False if there is none."""
        victim = self.oldest_idle()
        if victim is None:
            return False
        self.release(victim)
        return True

    def seat(self, choice: Choice, evaluated: int) -> Resident:
        """Give ``choice`` an empty sequence id, evicting for it if need be.

        ``evaluated`` is what the sequence will hold when the operations of the next plan are done.
        """
        if not self._memory.n_free_ids:
            self.evict()
        seq = self._best_seat() if self._memory.joins_neighbours else None
        if seq in self._idle:
            self._move(self._idle[seq], self._memory.lowest_free_id)
        resident = Resident(self._memory.take_id(seq), choice.request.scope, [], 0, 0)
        self._by_seq[resident.seq] = resident
        self._occupy(resident, choice, evaluated)
        return resident

    def _best_seat(self) -> int | None:
        """Return the id that leaves fewest gaps among the running ones, a free one before an idle one; None: any."""
        busy = self._by_seq.keys() - self._idle.keys()
        beside = [seq for other in busy for seq in (other - 1, other + 1) if seq not in busy]
        seats = [seq for seq in beside if seq in self._idle or self._memory.is_free(seq)]
        return min(seats, key=lambda seq: (-beside.count(seq), seq in self._idle, seq), default=None)

    def _move(self, resident: Resident, target: int) -> None:
        """Copy an idle resident to a free id and free its own. It stays as recently used as it was."""
        source = resident.seq
        tree = self._trees[resident.scope]
        self._memory.copy(source, self._memory.take_id(target), resident.evaluated)
        tree.discard(source)
        del self._by_seq[source]
        resident.seq = target
        self._by_seq[target] = resident
        self._idle = {idle.seq: idle for idle in self._idle.values()}
        tree.put(target, resident.tokens, resident.evaluated)
        self._memory.give_back(source)

    def claim(self, resident: Resident, choice: Choice, length: int) -> None:
        """Let ``choice`` go on from the first ``length`` tokens of an idle resident."""
        del self._idle[resident.seq]
        self._memory.truncate(resident.seq, length)
        self._occupy(resident, choice, length)

    def _occupy(self, resident: Resident, choice: Choice, evaluated: int) -> None:
        if choice.tokens is choice.request.prompt:
            choice.tokens = list(choice.tokens)  # from now on it grows by what this choice draws
        resident.tokens = choice.tokens
        resident.prompt_length = len(choice.request.prompt)
        resident.evaluated = evaluated
        resident.idle = False
        choice.resident = resident
        choice.caught_up = False
        self._trees.setdefault(resident.scope, RadixTree()).put(resident.seq, choice.tokens, len(choice.tokens))

    def park(self, resident: Resident) -> None:
        """Keep a busy resident's evaluated tokens as the most recently used cached prefix."""
        if resident.evaluated == 0:
            self.release(resident)
            return
        resident.idle = True
        self._idle[resident.seq] = resident
        self._trees[resident.scope].put(resident.seq, resident.tokens, resident.evaluated)

    def release(self, resident: Resident) -> None:
        """Empty a resident's sequence and free its id."""
        del self._by_seq[resident.seq]
        self._idle.pop(resident.seq, None)
        tree = self._trees[resident.scope]
        tree.discard(resident.seq)
        if not len(tree):
            del self._trees[resident.scope]
        self._memory.give_back(resident.seq)

    def release_idle(self, scope: Scope) -> None:
        """Forget all cached prefixes of a scope."""
        for resident in [resident for resident in self._idle.values() if resident.scope == scope]:
            self.release(resident)

    def check(self, busy: Iterable[Resident]) -> None:
        """Assert that ids, trees and lengths agree, and that what is not idle is ``busy``."""
        assert {resident.seq for resident in busy} == self._by_seq.keys() - self._idle.keys()
        self._memory.check(self._by_seq)
        assert self._idle.keys() <= self._by_seq.keys()
        assert sum(len(tree) for tree in self._trees.values()) == len(self._by_seq)
        for tree in self._trees.values():
            tree.check()
        for seq, resident in self._by_seq.items():
            assert resident.seq == seq
            assert resident.idle == (seq in self._idle)
            assert resident.evaluated == self._memory.cells.length(seq), "booked cells differ from evaluated tokens"
            assert resident.evaluated <= len(resident.tokens)
            assert not resident.idle or resident.evaluated > 0
