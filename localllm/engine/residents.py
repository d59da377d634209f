"""The sequences in the KV cache, running and idle: found by their tokens, evicted by age."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from localllm.engine.budget import Memory
from localllm.engine.radix import RadixTree
from localllm.engine.saved import SavedPrefixes
from localllm.engine.sequence import Choice, Resident, Scope


class Residents:
    """Owns which sequence id holds what for whom. A scope's prefixes are invisible to other scopes.

    But for those that were published: where an owner's sequence begins with all of such a prefix, every owner finds it
    by that prefix, and by nothing behind it. So a published prefix stays for all as long as anybody's sequence has it.

    A running sequence is found by all tokens that it was admitted with, evaluated or not yet; what it draws is added
    when it becomes idle.

    What is evicted of conversations that go on is booked in ``saved`` before.
    """

    def __init__(self, memory: Memory, saved: SavedPrefixes) -> None:
        self._memory = memory
        self._saved = saved
        self._by_seq: dict[int, Resident] = {}
        self._idle: dict[int, Resident] = {}  # least recently used first
        self._trees: dict[Scope, RadixTree] = {}  # a sequence is in that of its scope, and may be in the public one
        self._published: list[list[int]] = []

    def publish(self, tokens: list[int]) -> None:
        """Let every owner reuse these tokens, whoever had them evaluated."""
        if tokens not in self._published:
            self._published.append(tokens)

    def matches(self, scope: Scope, tokens: list[int], limit: int) -> Iterator[tuple[int, Resident]]:
        """Yield (common length, resident) for those that share a first token, longest first."""
        scopes = (scope, scope.public) if scope.kind == "owner" else (scope,)
        found = [tree.match(tokens, limit) for one in scopes if (tree := self._trees.get(one)) is not None]
        told: set[int] = set()
        for length, seq in heapq.merge(*found, key=lambda match: -match[0]):
            if seq not in told:  # by the longer match: as the owner's, and not as everybody's
                told.add(seq)
                yield length, self._by_seq[seq]

    def oldest_idle(self) -> Resident | None:
        """Return the least recently used idle resident."""
        return next(iter(self._idle.values()), None)

    def evict(self) -> bool:
        """Let the least recently used idle resident go; False if there is none."""
        victim = self.oldest_idle()
        if victim is None:
            return False
        self.save(victim)
        self.release(victim)
        return True

    def save(self, resident: Resident) -> None:
        """Have an idle resident saved as it is, if its conversation goes on.

        One that was copied just now is not: what it holds may not be there yet.
        """
        if resident.goes_on and self._memory.is_copied(resident.seq):
            self._saved.keep(resident)

    def adopt(self, resident: Resident) -> None:
        """Take in what was put back into a sequence, as the most recently used cached prefix."""
        self._by_seq[resident.seq] = resident
        self.park(resident)

    def idle(self) -> list[Resident]:
        """Return the cached sequences, most recently used first."""
        return list(reversed(self._idle.values()))

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
        self._memory.copy(source, self._memory.take_id(target), resident.evaluated)
        self._unfile(resident)
        del self._by_seq[source]
        resident.seq = target
        self._by_seq[target] = resident
        self._idle = {idle.seq: idle for idle in self._idle.values()}
        self._file(resident, resident.evaluated)
        self._memory.give_back(source)

    def claim(self, resident: Resident, choice: Choice, length: int) -> None:
        """Let ``choice`` go on from the first ``length`` tokens of an idle resident, which becomes its owner's."""
        del self._idle[resident.seq]
        self._unfile(resident)
        resident.scope = choice.request.scope
        self._memory.truncate(resident.seq, length)
        self._occupy(resident, choice, length)

    def touch(self, resident: Resident) -> None:
        """Count an idle resident as used just now: all of it was, by a copy."""
        if resident.idle:
            self._idle[resident.seq] = self._idle.pop(resident.seq)

    def _occupy(self, resident: Resident, choice: Choice, evaluated: int) -> None:
        if choice.tokens is choice.request.prompt:
            choice.tokens = list(choice.tokens)  # from now on it grows by what this choice draws
        resident.tokens = choice.tokens
        resident.prompt_length = len(choice.request.prompt)
        resident.evaluated = evaluated
        resident.idle = False
        resident.goes_on = choice.request.goes_on
        choice.resident = resident
        choice.caught_up = False
        self._file(resident, len(choice.tokens))

    def _file(self, resident: Resident, length: int) -> None:
        """Let a resident be found by its first ``length`` tokens, in place of those that it was found by."""
        self._unfile(resident)
        if resident.scope.kind == "public":
            length = min(length, resident.prompt_length)
        self._trees.setdefault(resident.scope, RadixTree()).put(resident.seq, resident.tokens, length)
        if shared := self._public_length(resident, length):
            self._trees.setdefault(resident.scope.public, RadixTree()).put(resident.seq, resident.tokens, shared)

    def _unfile(self, resident: Resident) -> None:
        for scope in {resident.scope, resident.scope.public}:
            tree = self._trees.get(scope)
            if tree is not None:
                tree.discard(resident.seq)
                if not len(tree):
                    del self._trees[scope]

    def _public_length(self, resident: Resident, length: int) -> int:
        """Return for how long an owner's sequence is what was published; 0 unless it is for a whole prefix."""
        if resident.scope.kind != "owner":
            return 0
        lengths = [len(prefix) for prefix in self._published if resident.tokens[: len(prefix)] == prefix]
        return max((one for one in lengths if one <= length), default=0)

    def park(self, resident: Resident) -> None:
        """Keep a busy resident's evaluated tokens as the most recently used cached prefix."""
        if resident.evaluated == 0:
            self.release(resident)
            return
        resident.idle = True
        self._idle[resident.seq] = resident
        self._file(resident, resident.evaluated)

    def release(self, resident: Resident) -> None:
        """Empty a resident's sequence and free its id."""
        del self._by_seq[resident.seq]
        self._idle.pop(resident.seq, None)
        self._unfile(resident)
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
        for tree in self._trees.values():
            tree.check()
        found_by = {scope: tree.lengths() for scope, tree in self._trees.items()}
        for seq, resident in self._by_seq.items():
            length = found_by[resident.scope].pop(seq)
            if resident.scope.kind == "public":
                assert length <= resident.prompt_length, "what was drawn is nobody else's"
            else:
                assert not resident.idle or length == resident.evaluated
                assert found_by.get(resident.scope.public, {}).pop(seq, 0) == self._public_length(resident, length)
            assert resident.seq == seq
            assert resident.idle == (seq in self._idle)
            assert resident.evaluated == self._memory.cells.length(seq), "booked cells differ from evaluated tokens"
            assert resident.evaluated <= len(resident.tokens)
            assert not resident.idle or resident.evaluated > 0
        assert not any(found_by.values()), "a sequence is found in a place that is not its own"
