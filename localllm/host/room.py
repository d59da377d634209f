"""The queue for room: instances of models wait in it to be loaded, and loaded ones are told to go for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from localllm.contract.errors import LocalLLMError, ModelTooLargeError, UnavailableError
from localllm.host.memory import describe_bytes
from localllm.host.residency import Decision, InstanceKey, Limits, ModelKey, Resident, Use, Waiter, decide

PINNED_RETRY_SECONDS = 30


class NoSpareRoomError(Exception):
    """An instance that others do without would not have room beside what is in use."""


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What a loaded instance tells of itself; ``used_at`` is by the registry's clock."""

    use: Use
    used_at: float
    pinned: bool
    leaving: bool


class Tenant(Protocol):
    """An instance of a model that may have a place."""

    def occupancy(self) -> Occupancy:
        """Say how it is used just now."""
        ...

    def evict(self) -> object:
        """Take nobody in any more, and call :meth:`Room.release` when the last request is over. Returns at once."""
        ...


@dataclass(frozen=True, slots=True)
class RoomLimits:
    """``strict``: a model that alone is bigger than the limit is refused; else it is loaded by itself.

    A limit that somebody set is strict. The automatic one is not: it knows nothing of the memory of GPUs.
    """

    limits: Limits
    strict: bool


@dataclass(slots=True, eq=False)
class _Ticket:
    waiter: Waiter
    answer: asyncio.Future[LocalLLMError | NoSpareRoomError | None]


class Room:
    """Places for loaded instances: asked for with :meth:`reserve`, given back with :meth:`release`. Event loop only.

    Whatever changes the answer to "who may go" is followed by :meth:`replan`: one that became idle, a pin taken off.
    ``tenants`` has all instances that hold or want a place.
    """

    def __init__(self, limits: RoomLimits, clock: Callable[[], float], tenants: Mapping[InstanceKey, Tenant]) -> None:
        self._limits = limits.limits
        self._strict = limits.strict
        self._clock = clock
        self._tenants = tenants
        self._held: dict[InstanceKey, int] = {}
        self._estimates: dict[InstanceKey, int] = {}
        self._measured: dict[ModelKey, tuple[int, int]] = {}  # what an estimate proved to be
        self._queue: list[_Ticket] = []

    def set_limits(self, limits: RoomLimits) -> None:
        """Take other limits from now on. Models that are loaded go only as others need their room."""
        self._limits, self._strict = limits.limits, limits.strict
        self.replan()

    @property
    def crowded(self) -> bool:
        """Whether anybody waits."""
        return bool(self._queue)

    @property
    def held(self) -> Mapping[InstanceKey, int]:
        """The places that are taken, each with its bytes as far as they are known."""
        return self._held

    async def reserve(self, key: InstanceKey, estimated_bytes: int, *, spare: bool = False) -> None:
        """Wait for a place. Raises ``ModelTooLargeError`` or ``UnavailableError`` when it can't come to that.

        A model that was measured before counts for that, as long as its estimate is the same. A ``spare`` instance
        comes after all that are needed and makes only idle ones go: else ``NoSpareRoomError`` is raised.

        Whoever is cancelled while waiting leaves no trace, and nothing is let go for them; but the place may have been
        given in that very moment, so that they release it all the same.
        """
        limit = self._limits.memory_bytes
        if limit and estimated_bytes > limit and self._strict:
            raise _too_large(key, estimated_bytes, limit)
        self._estimates[key] = estimated_bytes
        estimate, measured = self._measured.get(key.model, (None, 0))
        needed = measured if estimate == estimated_bytes else estimated_bytes
        waiter = Waiter(key, min(needed, limit) if limit else needed, self._clock(), spare)
        ticket = _Ticket(waiter, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        try:
            self.replan()
            refusal = await ticket.answer
        finally:
            if ticket in self._queue:
                self._queue.remove(ticket)
                self.replan()
        if refusal is not None:
            raise refusal

    def correct(self, key: InstanceKey, memory_bytes: int) -> None:
        """Replace the estimate of a model that holds a place by what was measured."""
        self._held[key] = memory_bytes
        self._measured[key.model] = self._estimates[key], memory_bytes
        self.replan()

    def release(self, key: InstanceKey) -> None:
        """Give a place back. Nothing happens when none was held."""
        if self._held.pop(key, None) is not None:
            self.replan()

    def replan(self) -> None:
        """Let in whom there is room for, and ask those to go whose room is needed."""
        waiting = [ticket.waiter for ticket in self._queue if not ticket.answer.done()]  # one may just be leaving
        waiters = sorted(waiting, key=lambda waiter: waiter.spare)
        if not waiters and not self._over_budget():
            return
        self._carry_out(decide(self._residents(), waiters, self._limits, self._clock()))

    def _carry_out(self, decision: Decision) -> None:
        tickets = {ticket.waiter.key: ticket for ticket in self._queue if not ticket.answer.done()}
        for key in decision.admit:
            self._held[key] = tickets[key].waiter.memory_bytes
            self._answer(tickets[key], None)
        for key in decision.refuse:
            waiter = tickets[key].waiter
            self._answer(tickets[key], NoSpareRoomError() if waiter.spare else self._all_pinned(waiter))
        for key in decision.evict:
            self._tenants[key].evict()

    def _answer(self, ticket: _Ticket, refusal: LocalLLMError | NoSpareRoomError | None) -> None:
        self._queue.remove(ticket)
        ticket.answer.set_result(refusal)

    def _residents(self) -> list[Resident]:
        residents = []
        for key, memory_bytes in self._held.items():
            now = self._tenants[key].occupancy()
            residents.append(Resident(key, memory_bytes, now.used_at, now.use, now.pinned, now.leaving))
        return residents

    def _over_budget(self) -> bool:
        limit = self._limits.memory_bytes
        return bool(limit) and len(self._held) > 1 and sum(self._held.values()) > limit

    def _all_pinned(self, waiter: Waiter) -> UnavailableError:
        pinned = dict.fromkeys(key.model_id for key in self._held if self._tenants[key].occupancy().pinned)
        limits = self._limits
        bounds = [f"at most {limits.max_loaded} loaded (models.max_loaded)"] if limits.max_loaded else []
        if limits.memory_bytes:
            bounds.append(f"at most {describe_bytes(limits.memory_bytes)} taken (models.memory_limit_gib)")
        message = (
            f"Model {waiter.key.model_id!r} takes about {describe_bytes(waiter.memory_bytes)} and has no room beside "
            f"the pinned {', '.join(pinned)}: there may be {' and '.join(bounds)}. Unload or unpin one of them, or "
            f"raise the limit."
        )
        return UnavailableError(message, retry_after_seconds=PINNED_RETRY_SECONDS)


def _too_large(key: InstanceKey, memory_bytes: int, limit: int) -> ModelTooLargeError:
    message = (
        f"Model {key.model_id!r} takes about {describe_bytes(memory_bytes)}, more than the {describe_bytes(limit)} "
        f"that all models together may take. Raise models.memory_limit_gib, give it a shorter context_length, or "
        f"choose a smaller model."
    )
    return ModelTooLargeError(message, param="model", detail={"needed_bytes": memory_bytes, "limit_bytes": limit})
