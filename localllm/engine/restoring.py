"""Puts saved prefixes back into the KV cache for prompts that wait: which one, and where there is room for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.contract.decoder import Op
from localllm.engine.admission import Admission, Decision, Start
from localllm.engine.budget import Memory
from localllm.engine.residents import Residents
from localllm.engine.saved import Save, SavedPrefix, SavedPrefixes
from localllm.engine.sequence import Choice, Resident


@dataclass(frozen=True, slots=True)
class Restore:
    """An order, to be carried out in this order: ``saves``, ``ops``, then put ``saved`` back into ``seq``.

    All is booked as if it had been done; ``Restorer.commit`` is told whether it was.
    """

    saved: SavedPrefix
    seq: int
    saves: tuple[Save, ...]
    ops: tuple[Op, ...]


class Restorer:
    """Chooses what is put back. Afterwards it is an idle resident like others, which admission claims or copies."""

    def __init__(self, memory: Memory, residents: Residents, saved: SavedPrefixes, admission: Admission) -> None:
        self._memory = memory
        self._residents = residents
        self._saved = saved
        self._admission = admission

    def plan(self, waiting: Sequence[Choice], running: Sequence[Choice]) -> Restore | None:
        """Return what is worth putting back for the first of ``waiting`` that gains by it, once for each request."""
        if not len(self._saved):
            return None
        for choice in waiting:
            found = self._find(choice)
            if found is None:
                continue
            if not self._admission.fits(choice, Decision(Start.FRESH), running):
                return None  # it waits for cells, and what is put back now would only have to go again
            seq = self._make_room(found, running)
            if seq is None:
                continue
            choice.request.was_restored = True
            return Restore(found, seq, self._saved.take_saves(), self._memory.take_ops())
        return None

    def commit(self, restore: Restore, *, done: bool) -> None:
        """Book what came of it: a resident, or a saved prefix that is of no use."""
        saved = restore.saved
        if done:
            resident = Resident(restore.seq, saved.scope, list(saved.tokens), saved.prompt_length, len(saved.tokens))
            resident.goes_on = True
            self._residents.adopt(resident)
        else:
            self._memory.cells.truncate(restore.seq, 0)
            self._memory.give_back(restore.seq)
            self._saved.lose(saved.handle)

    def _find(self, choice: Choice) -> SavedPrefix | None:
        if choice.request.was_restored or not choice.request.is_kept:
            return None
        best = self._saved.best(choice.request.scope, choice.tokens, self._admission.limit(choice))
        if best is None:
            return None
        length, saved = best
        gain = length - self._admission.decide(choice).length
        return saved if gain >= max(1, self._saved.worthwhile_tokens) else None

    def _make_room(self, saved: SavedPrefix, running: Sequence[Choice]) -> int | None:
        """Take an id with cells for all of ``saved``, evicting for it; None if that can't be.

        Not one that a copy is about to read or write: it may be done after the restoring.
        """
        n_tokens = len(saved.tokens)
        holds = [(choice.sequence.seq, choice.sequence.evaluated) for choice in running]
        if not self._memory.cells.fits(holds, n_tokens):
            return None
        seq = self._memory.settled_free_id()
        if not self._memory.n_free_ids:
            victim = self._residents.oldest_idle()
            seq = victim.seq if victim is not None and self._memory.is_settled(victim.seq) else None
        if seq is None:
            return None
        self._saved.take(saved)  # so that what is evicted for it can't push it out
        if not self._memory.n_free_ids:
            self._residents.evict()
        self._memory.take_id(seq)
        while self._memory.cells.free_for(seq) < n_tokens and self._residents.evict():
            pass
        self._memory.cells.grow(seq, n_tokens)
        return seq
