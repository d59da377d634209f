"""Continuous batching: decides, step by step, which tokens of which requests are evaluated. Integers in, a plan out."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from localllm.contract.decoder import Capabilities, Plan, SequenceKey, Slice
from localllm.engine.admission import Admission, Start
from localllm.engine.budget import Memory
from localllm.engine.pacing import share_budget
from localllm.engine.residents import Residents
from localllm.engine.restoring import Restore, Restorer
from localllm.engine.saved import SavedPrefixes
from localllm.engine.scored_rows import limit_rows
from localllm.engine.sequence import Choice, Request, Resident, Scope
from localllm.engine.step import Part, Step
from localllm.engine.turns import Turns

_by_serial = attrgetter("serial")


@dataclass(slots=True)
class _Entrance:
    """What one round of admission found. Requests that wait for a prefill keep a place among the running."""

    admitted: list[Request] = field(default_factory=list)
    copied_tokens: int = 0  # time that copies take, in tokens that could be evaluated meanwhile
    forks: dict[Request, list[Choice]] = field(default_factory=dict)  # who draws from a sibling's first row
    stops: dict[int, int] = field(default_factory=dict)  # seq: length at which another choice wants to copy it


class Scheduler:
    """Who runs, who waits, and what each step evaluates.

    Calls go in rounds: ``add`` and ``cancel`` as often as wanted, ``restore`` and ``commit_restore`` of what it
    returned (nothing, most often), ``schedule``, ``commit`` of what it returned; all from one thread. Each choice is
    waiting, running or done::

        add -> WAITING -> (admitted, or forked off a sibling's prefill) -> RUNNING -> done
                  ^                                                           |
                  +------------------ preempted: cells ran out ---------------+

    Both lists are in order of arrival. The oldest running choice is served first and never preempted, so that work
    always goes on, and one that fits its context always gets to its end.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        self.saved = SavedPrefixes(capabilities)
        self._memory = Memory(capabilities)
        self._residents = Residents(self._memory, self.saved)
        self._admission = Admission(capabilities, self._memory, self._residents)
        self._restorer = Restorer(self._memory, self._residents, self.saved, self._admission)
        self._n_batch = capabilities.n_batch
        self._can_truncate = capabilities.can_truncate
        # All running choices may decode in the same step: one sequence, one token and one row each.
        self._parallel = min(
            capabilities.parallel, capabilities.n_seq_max, capabilities.n_batch, capabilities.n_outputs_max
        )
        self._n_outputs_max = capabilities.n_outputs_max
        self._requests: dict[str, Request] = {}
        self._waiting: list[Choice] = []
        self._running: list[Choice] = []
        self._turns = Turns()
        self._n_added = 0
        self._is_full = False  # the first in the queue does not fit, and nothing was let go since

    @property
    def has_work(self) -> bool:
        """Whether ``schedule`` would return a plan with slices."""
        return bool(self._running or self._waiting)

    @property
    def is_decoding(self) -> bool:
        """Whether an answer is being written, so that a long step would be felt as a gap."""
        return any(choice.caught_up for choice in self._running)

    def add(
        self,
        request_id: str,
        prompt: Sequence[int],
        n: int = 1,
        *,
        owner: str = "",
        keep: bool = True,
        n_top: int | None = None,
        is_public: bool = False,
        group: str = "",
        goes_on: bool = False,
    ) -> None:
        """Queue ``n`` answers to a prompt of 1 .. ``context_length - 1`` tokens.

        With ``keep`` unset it neither uses cached prefixes nor leaves any. With ``n_top`` given all prompt tokens but
        the first are targets of one slice each, in order; so that it uses no cached prefix, but leaves one. Where it
        ``is_public``, its prompt (and nothing that is drawn) is from now on a prefix that all owners share. Requests
        of different ``group`` share neither steps nor prefixes. What is evaluated of a conversation that ``goes_on`` is
        saved when it has to go.
        """
        scope = Scope("owner", owner, group) if keep else Scope("request", request_id, group)
        if is_public:
            scope = scope.public
            self._residents.publish(list(prompt))
        request = Request(request_id, list(prompt), scope, n_top=n_top, goes_on=goes_on and scope.kind == "owner")
        for index in range(n):
            choice = Choice(SequenceKey(request_id, index), request, self._n_added, request.prompt)
            self._n_added += 1
            request.choices.append(choice)
        self._waiting += request.choices
        self._requests[request_id] = request

    def cancel(self, request_id: str) -> None:
        """Forget a request in whatever state it is; unknown ids are ignored. Its evaluated tokens stay cached."""
        request = self._requests.get(request_id)
        if request is None:
            return
        self._waiting = [choice for choice in self._waiting if choice.request is not request]
        for choice in request.choices:
            if not choice.done:
                self._finish(choice)

    def restore(self) -> Restore | None:
        """Return what is to be put back into the cache before the next step, if anything; to be committed before it."""
        n_places = self._parallel - len(self._running)
        if n_places <= 0 or self._is_full:
            return None
        return self._restorer.plan(self._waiting[:n_places], self._running)

    def commit_restore(self, restore: Restore, *, done: bool) -> None:
        """Book whether something could be put back."""
        self._restorer.commit(restore, done=done)

    def worth_keeping(self) -> list[Resident]:
        """Return the idle sequences of conversations that go on, most recently used first: between steps only."""
        return [
            one
            for one in self._residents.idle()
            if one.goes_on and one.evaluated >= self.saved.worthwhile_tokens and self._memory.is_copied(one.seq)
        ]

    def schedule(self, prefill_budget: int) -> Step:
        """Return what to evaluate next: decodes first, then prompts, oldest first, up to ``prefill_budget`` tokens.

        All of it is of one group; where several run, they take turns. Cells are booked as if the plan had run;
        ``commit`` books the rest.
        """
        entrance = self._admit(prefill_budget)
        group, parts = self._fill_turn(prefill_budget - entrance.copied_tokens, entrance)
        for part in parts:
            for fork in part.forks:
                self._residents.seat(fork, evaluated=0)
                self._enter(fork)
        slices = tuple([self._slice(part) for part in parts])
        if slices:
            self._memory.settle()
        return Step(
            plan=Plan(self._memory.take_ops(), slices, group),
            parts=tuple(parts),
            prefill_tokens=sum(part.n_tokens for part in parts if not part.choice.caught_up),
            admitted=tuple(entrance.admitted),
            saves=self.saved.take_saves(),
        )

    def commit(self, step: Step, drawn: Mapping[SequenceKey, Sequence[int]]) -> None:
        """Book a step that the decoder has run. ``drawn`` has the new tokens of each choice that goes on.

        A choice that drew but is absent from ``drawn`` is complete.
        """
        for part, piece in zip(step.parts, step.plan.slices, strict=True):
            resident = part.choice.sequence
            resident.evaluated += part.n_tokens
            part.choice.request.n_scored += len(piece.targets)
            if not piece.sample:
                continue
            for fork in part.forks:
                if fork.key in drawn:  # one that is complete already needs no copy
                    self._memory.copy(resident.seq, fork.sequence.seq, resident.evaluated)
                    fork.sequence.evaluated = resident.evaluated
                self._extend(fork, drawn.get(fork.key))
            self._extend(part.choice, drawn.get(part.choice.key))

    def _extend(self, choice: Choice, tokens: Sequence[int] | None) -> None:
        if tokens is None:
            self._finish(choice)
            return
        choice.tokens.extend(tokens)
        choice.caught_up = True

    def _finish(self, choice: Choice) -> None:
        choice.done = True
        request = choice.request
        if choice.resident is not None:
            self._running.remove(choice)
            self._residents.park(choice.resident)
            choice.resident = None
        self._is_full = False
        if request.is_done:
            del self._requests[request.request_id]
            if not request.is_kept:
                self._residents.release_idle(request.scope)

    def _preempt(self, choice: Choice) -> None:
        """Put a running choice back in the queue, with all its tokens; its sampler keeps its state."""
        self._residents.release(choice.sequence)
        choice.resident = None
        self._running.remove(choice)
        insort(self._waiting, choice, key=_by_serial)
        self._is_full = False

    def _admit(self, budget: int) -> _Entrance:
        """Seat waiting choices in order of arrival, as long as there are places, cells and time for copies."""
        entrance = _Entrance()
        n_places = self._parallel - len(self._running)
        if n_places <= 0 or self._is_full:
            return entrance
        for choice in self._waiting[:n_places]:
            if entrance.copied_tokens > budget:
                break
            if self._admission.can_fork(choice) and any(c.resident and c.is_fresh for c in choice.request.choices):
                entrance.forks.setdefault(choice.request, []).append(choice)
                continue
            if choice.request.is_scoring and not choice.scores:
                continue  # scores are told before anything is drawn
            decision = self._admission.decide(choice)
            if decision.source is not None and decision.start is Start.WAIT:
                if not self._can_truncate:  # then it can be copied only while it holds no more than the match
                    seq = decision.source.seq
                    entrance.stops[seq] = min(decision.length, entrance.stops.get(seq, decision.length))
                continue
            if not self._admission.fits(choice, decision, self._running):
                self._is_full = choice is self._waiting[0]
                break
            entrance.copied_tokens += self._admission.seat(choice, decision)
            self._enter(choice)
            if choice.request.cached_tokens is None:
                choice.request.cached_tokens = decision.length
                entrance.admitted.append(choice.request)
        return entrance

    def _enter(self, choice: Choice) -> None:
        self._waiting.remove(choice)
        insort(self._running, choice, key=_by_serial)

    def _fill_turn(self, budget: int, entrance: _Entrance) -> tuple[str, list[Part]]:
        """Return the group whose turn it is, and the parts of its plan.

        A group of younger choices may find no cells that it can take; that of the oldest one always does.
        """
        for group in self._turns.order(choice.request.scope.group for choice in self._running):
            parts = self._fill(group, budget, entrance)
            if parts:
                self._turns.serve(group)
                return group, parts
        return "", []

    def _fill(self, group: str, budget: int, entrance: _Entrance) -> list[Part]:
        """Return the parts of a group's plan: decodes, then prefills up to ``budget`` tokens (at least one).

        Goes from the oldest to the youngest, so that an older one may preempt a younger one that has no part yet.
        """
        decodes: list[Part] = []
        prefills: list[Part] = []
        wanted = self._wanted(group, max(1, budget), entrance.stops)
        batch_left = self._n_batch
        for choice, is_urgent, n_wanted in wanted:
            if choice.resident is None or not n_wanted:
                continue  # preempted just now, or others have the budget
            n_tokens = self._make_room(choice, min(n_wanted, batch_left))
            if not n_tokens:
                continue
            self._memory.cells.grow(choice.resident.seq, n_tokens)
            batch_left -= n_tokens
            draws_first = choice.is_fresh and choice.resident.evaluated + n_tokens == len(choice.tokens)
            forks = tuple(entrance.forks.get(choice.request, ())) if draws_first else ()
            (decodes if is_urgent else prefills).append(Part(choice, n_tokens, forks))
        return decodes + prefills

    def _wanted(self, group: str, budget: int, stops: Mapping[int, int]) -> list[tuple[Choice, bool, int]]:
        """Return (choice, whether it goes first, its tokens in the next plan) of a group's that run, oldest first.

        Running answers go first, and so do prompts that lack only their last token: they cost no more than a decode.
        """
        wanted: list[tuple[Choice, bool, int]] = []
        n_urgent = 0
        prefilling: list[int] = []
        for choice in self._running:
            if choice.request.scope.group != group:
                continue
            resident = choice.sequence
            n_pending = len(choice.tokens) - resident.evaluated
            is_urgent = choice.caught_up or n_pending == 1
            if is_urgent:
                n_urgent += n_pending
            else:
                n_pending = stops.get(resident.seq, len(choice.tokens)) - resident.evaluated
                prefilling.append(len(wanted))
            wanted.append((choice, is_urgent, n_pending))
        limit_rows(wanted, self._n_outputs_max)
        if prefilling:
            parts = share_budget(max(0, min(budget, self._n_batch - n_urgent)), [wanted[i][2] for i in prefilling])
            for index, n_tokens in zip(prefilling, parts, strict=True):
                wanted[index] = (wanted[index][0], False, n_tokens)
        return wanted

    def _make_room(self, choice: Choice, n_tokens: int) -> int:
        """Return for how many of ``n_tokens`` there are cells: all if evicting idle sequences can help.

        For the first of them even a running choice is preempted, the youngest, unless that is ``choice`` itself.
        """
        cells, seq = self._memory.cells, choice.sequence.seq
        while cells.free_for(seq) < n_tokens and self._residents.evict():
            pass
        while cells.free_for(seq) == 0 and self._running[-1] is not choice:
            self._preempt(self._running[-1])
        return min(n_tokens, cells.free_for(seq))

    def _slice(self, part: Part) -> Slice:
        choice, start = part.choice, part.choice.sequence.evaluated
        end = start + part.n_tokens
        tokens = tuple(choice.tokens[start:end])
        request = choice.request
        targets: tuple[int, ...] = ()
        if choice.scores and start == request.n_scored:
            targets = tuple(request.prompt[start + 1 : end + 1])
        sample = (choice.key, *(fork.key for fork in part.forks)) if end == len(choice.tokens) else ()
        return Slice(choice.sequence.seq, start, tokens, sample, targets, request.n_top or 0 if targets else 0)

    def check(self) -> None:
        """Assert the invariants. Between ``commit`` and ``schedule`` only; meant for tests, and for an idle engine."""
        self.saved.check()
        self._residents.check([choice.sequence for choice in self._running])
        assert len(self._running) <= self._parallel
        assert [c.serial for c in self._running] == sorted(c.serial for c in self._running)
        assert [c.serial for c in self._waiting] == sorted(c.serial for c in self._waiting)
        listed = self._running + self._waiting
        assert len({choice.serial for choice in listed}) == len(listed)
        unfinished = [c for request in self._requests.values() for c in request.choices if not c.done]
        assert {choice.serial for choice in unfinished} == {choice.serial for choice in listed}
        assert all(choice.resident is None for choice in self._waiting)
        for choice in self._running:
            assert choice.sequence.tokens is choice.tokens
            assert choice.sequence.scope == choice.request.scope
            assert choice.sequence.evaluated < len(choice.tokens), "a running choice has something to evaluate"
            assert not choice.request.is_scoring or choice.scores, "a choice runs ahead of its prompt's scores"
            assert not choice.scores or choice.is_fresh
            assert not choice.scores or choice.sequence.evaluated <= choice.request.n_scored, "positions left unscored"
        assert all(not request.is_done for request in self._requests.values())
