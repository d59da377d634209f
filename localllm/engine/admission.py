"""Where a prompt begins: which resident prefix it goes on from, or whether one is on its way and worth waiting for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from localllm.contract.decoder import Capabilities
from localllm.engine.budget import Memory
from localllm.engine.residents import Residents
from localllm.engine.sequence import Choice, Resident, Scope

MIN_WAIT_GAIN_TOKENS = 16
"""Waiting for another prompt's prefill must save so many tokens: it costs a step, and fewer are evaluated as fast."""

DEAD_TAIL_TOKENS = 8
"""A cached sequence that differs this close to its prompt's end is the same conversation gone on (its template writes
the last turn differently in history), so that its tail is not worth keeping."""


class Start(Enum):
    """How a choice gets its sequence."""

    FRESH = "fresh"  # an empty sequence
    CLAIM = "claim"  # an idle sequence, cut down to the match
    COPY = "copy"  # an empty sequence, filled with the first tokens of another one
    WAIT = "wait"  # not now: another sequence is just evaluating the same tokens


@dataclass(frozen=True, slots=True)
class Decision:
    """How a choice starts: the first ``length`` tokens come from ``source``."""

    start: Start
    length: int = 0
    source: Resident | None = None


class Admission:
    """Decides how a waiting choice starts, and seats it. Owns nothing but the rules."""

    def __init__(self, capabilities: Capabilities, memory: Memory, residents: Residents) -> None:
        self._can_truncate = capabilities.can_truncate
        self._can_copy = capabilities.can_copy
        self._copy_cost = capabilities.copy_cost_tokens
        self._memory = memory
        self._residents = residents

    def can_fork(self, choice: Choice) -> bool:
        """Whether a sibling's sequence can be copied once it holds the prompt, rather than evaluating that again."""
        return self._can_copy and choice.is_fresh and len(choice.request.prompt) > self._copy_cost

    def limit(self, choice: Choice) -> int:
        """Return how many of a choice's tokens need not be evaluated where others have them."""
        if choice.scores:
            return choice.request.n_scored  # all that are to be scored must be
        return len(choice.tokens) - 1  # one must be, for its logits

    def decide(self, choice: Choice) -> Decision:
        """Return the start that saves most tokens, net of what it costs. Deterministic; changes nothing."""
        best, best_saved = Decision(Start.FRESH), 0
        saved_elsewhere = 0
        coming: Decision | None = None
        limit = self.limit(choice)
        for match, resident in self._residents.matches(choice.request.scope, choice.tokens, limit):
            is_coming = match > resident.evaluated
            if is_coming and coming is None and self._can_copy:
                coming = Decision(Start.WAIT, match, resident)
            length = min(match, resident.evaluated)
            for start, saved in (
                (Start.CLAIM, self._saved_by_claim(resident, length, choice.request.scope)),
                (Start.COPY, self._saved_by_copy(resident, length)),
            ):
                if saved > best_saved:
                    best, best_saved = Decision(start, length, resident), saved
                if saved > saved_elsewhere and not is_coming:
                    saved_elsewhere = saved
        # What the coming one holds by now is no alternative to waiting for the rest, however little that is.
        if coming is not None and coming.length - self._copy_cost - saved_elsewhere >= MIN_WAIT_GAIN_TOKENS:
            return coming
        return best

    def _saved_by_claim(self, resident: Resident, length: int, scope: Scope) -> int:
        """Tokens saved by going on in ``resident`` itself, less those that it would lose.

        One of another ``scope``, matched by a public prefix, is not taken from those who may want it too: unless that
        prefix is all it is, and can be copied later from what it becomes.
        """
        if not resident.idle or length == 0:
            return 0
        n_lost = resident.evaluated - length
        if n_lost and not self._can_truncate:
            return 0
        # Where any start would evict this one, it loses nothing; so that no copy evicts its own source either.
        is_next_victim = not self._memory.n_free_ids and self._residents.oldest_idle() is resident
        if is_next_victim:
            return length
        if resident.scope != scope:
            return length if n_lost == 0 and (self._can_truncate or not self._can_copy) else 0
        if n_lost == 0 or resident.prompt_length - length <= DEAD_TAIL_TOKENS:
            return length
        return length - n_lost

    def _saved_by_copy(self, resident: Resident, length: int) -> int:
        """Tokens saved by copying from ``resident``, less what as much time as the copy takes would evaluate."""
        if not self._can_copy or length == 0 or (length < resident.evaluated and not self._can_truncate):
            return 0
        return length - self._copy_cost

    def fits(self, choice: Choice, decision: Decision, running: Sequence[Choice]) -> bool:
        """Whether all that is running can finish its prefill, and draw a token, beside this choice's whole text.

        A choice alone always fits: its text is shorter than a context, and a context is no more than the cells.
        """
        holds: list[tuple[int, int]] = []
        n_more = len(choice.tokens) - decision.length + 1
        for other in running:
            assert other.resident is not None, "a running choice has a sequence"
            holds.append((other.resident.seq, other.resident.evaluated))
            n_more += len(other.tokens) - other.resident.evaluated + 1
        if decision.source is not None:
            holds.append((decision.source.seq, decision.length))
        return self._memory.cells.fits(holds, n_more)

    def seat(self, choice: Choice, decision: Decision) -> int:
        """Carry out a decision other than WAIT. Returns what it costs, in tokens that could be evaluated meanwhile."""
        n_copies_before = self._memory.n_pending_copies
        source, length = decision.source, decision.length
        if source is None:
            self._residents.seat(choice, evaluated=0)
        elif decision.start is Start.CLAIM:
            if length < source.evaluated and source.prompt_length - length > DEAD_TAIL_TOKENS:
                self._residents.save(source)  # another conversation, that loses its tail by this
            self._residents.claim(source, choice, length)
        else:
            if length == source.evaluated:
                self._residents.touch(source)
            resident = self._residents.seat(choice, length)
            self._memory.copy(source.seq, resident.seq, length)
        return (self._memory.n_pending_copies - n_copies_before) * self._copy_cost
