"""Which loaded models are let go so that waiting ones can be loaded: a pure decision over a snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from localllm.contract.model import Mode

ModelKey = tuple[str, Mode]
"""A model's id and what it is loaded for: one file in two modes is loaded twice and counts twice."""


class InstanceKey(NamedTuple):
    """One of a model's instances, by number from 0. Each takes room of its own."""

    model_id: str
    mode: Mode
    number: int = 0

    @property
    def model(self) -> ModelKey:
        """What all instances of the model share."""
        return self.model_id, self.mode


class Use(StrEnum):
    """What happens to a resident model. One that is ``ARRIVING`` is being loaded, or those who waited come in."""

    IDLE = "idle"
    IN_USE = "in use"
    ARRIVING = "arriving"


@dataclass(frozen=True, slots=True)
class Resident:
    """An instance that takes room. A ``leaving`` one takes nobody in any more and goes once its requests are over."""

    key: InstanceKey
    memory_bytes: int
    used_at: float
    use: Use = Use.IDLE
    pinned: bool = False
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Waiter:
    """An instance that waits for room, however many requests wait for it. ``since`` is in seconds, as ``used_at``.

    A ``spare`` one would help others of its model that do the work without it: it makes none of these go and no busy
    ones, and rather than wait for more than idle ones to go it is refused.
    """

    key: InstanceKey
    memory_bytes: int
    since: float
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be loaded; 0 is no limit.

    ``patience_seconds`` is how long newer requests for a loaded model may come before a waiter that needs its room.
    """

    max_loaded: int = 0
    memory_bytes: int = 0
    patience_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Decision:
    """``admit`` may be loaded now; ``evict`` take nobody in any more; ``refuse`` have no room while others are pinned.

    Of spare ones ``refuse`` has all for which no room is being made. Evicting ends nobody's request: a model that is in
    use goes when the last one is over.
    """

    admit: tuple[InstanceKey, ...] = ()
    evict: tuple[InstanceKey, ...] = ()
    refuse: tuple[InstanceKey, ...] = ()


def decide(residents: Sequence[Resident], waiters: Sequence[Waiter], limits: Limits, now: float) -> Decision:
    """Decide what happens next. ``waiters`` come in the order of their arrival, and nobody overtakes; spare ones last.

    For each waiter in turn: where it fits it is admitted. Else the least recently used idle models go that make room
    for it, as few as will do, and none before enough of them can. Those behind it change nothing of that, not even
    where what goes for them would be enough for all: it may be in use, and the first one would wait for it. Once a
    waiter's patience is over, models in use are told to take nobody in any more; without that a busy model would keep
    its room for ever. What is pinned or arriving stays.
    When nobody waits, idle models go for as long as more memory is taken than there may be.
    """
    pinned = [one for one in residents if one.pinned and not one.leaving]
    refuse = [waiter.key for waiter in waiters if not _fits(pinned, limits, waiter.memory_bytes)]
    present, staying = list(residents), [one for one in residents if not one.leaving]
    admit: list[InstanceKey] = []
    evict: list[Resident] = []
    blocked = stuck = False
    for waiter in waiters:
        if waiter.key in refuse:
            continue
        if not blocked and _fits(present, limits, waiter.memory_bytes):
            admit.append(waiter.key)
        else:  # those behind it may already have room made for them, but come in after it
            victims = None if stuck else _victims(staying, waiter, limits, now)
            if victims is None and waiter.spare:
                refuse.append(waiter.key)
                continue
            blocked, stuck = True, victims is None
            if victims is None:
                continue
            evict += victims
            staying = [one for one in staying if one not in victims]
        newcomer = Resident(waiter.key, waiter.memory_bytes, now, Use.ARRIVING)
        present.append(newcomer)
        staying.append(newcomer)
    if not waiters:
        evict = _surplus(staying, limits)
    return Decision(tuple(admit), tuple(one.key for one in evict), tuple(refuse))


def _victims(staying: Sequence[Resident], waiter: Waiter, limits: Limits, now: float) -> list[Resident] | None:
    """Return whom to let go for ``waiter``; None when even all that may go would not be enough."""
    impatient = now - waiter.since >= limits.patience_seconds
    if waiter.spare:
        candidates = [one for one in _by_use(staying) if one.use is Use.IDLE and one.key.model != waiter.key.model]
    else:
        candidates = [one for one in _by_use(staying) if one.use is Use.IDLE or impatient]
    victims: list[Resident] = []
    while not _fits(_without(staying, victims), limits, waiter.memory_bytes):
        if len(victims) == len(candidates):
            return None
        victims.append(candidates[len(victims)])
    for one in reversed(victims.copy()):  # a big one may have made the small ones before it needless
        fewer = _without(victims, [one])
        if _fits(_without(staying, fewer), limits, waiter.memory_bytes):
            victims = fewer
    return victims


def _surplus(staying: Sequence[Resident], limits: Limits) -> list[Resident]:
    """Return the idle models that go because others proved to be bigger than estimated; never the last model."""
    victims: list[Resident] = []
    for one in _by_use(staying):
        rest = _without(staying, victims)
        if _fits(rest, limits, None) or len(rest) == 1 or one.use is not Use.IDLE:
            break
        victims.append(one)
    return victims


def _by_use(residents: Iterable[Resident]) -> list[Resident]:
    """Return those that may go at all, idle ones first, and of these the least recently used first."""
    free = [one for one in residents if not one.pinned and one.use is not Use.ARRIVING]
    return sorted(free, key=lambda one: (one.use is Use.IN_USE, one.used_at))


def _without(residents: Iterable[Resident], gone: Sequence[Resident]) -> list[Resident]:
    return [one for one in residents if one not in gone]


def _fits(residents: Sequence[Resident], limits: Limits, more_bytes: int | None) -> bool:
    """Whether one more model of ``more_bytes`` has room beside ``residents``; None: whether these have."""
    count, taken = len(residents), sum(one.memory_bytes for one in residents)
    if more_bytes is not None:
        count, taken = count + 1, taken + more_bytes
    return (not limits.max_loaded or count <= limits.max_loaded) and (
        not limits.memory_bytes or taken <= limits.memory_bytes
    )
