"""The choice among a model's instances: which one takes a request, and whether another one is to be started."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from localllm.host.states import ModelState

_AT_REST = frozenset({ModelState.UNLOADED, ModelState.FAILED})
_ARRIVING = frozenset({ModelState.QUEUED, ModelState.LOADING})
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance at a moment; counts are requests.

    A ``usable`` one takes requests now, and answers ``parallel`` at the same time. An ``outdated`` one was loaded from
    what the model no longer is: it is usable only while it is busy, and then loaded anew.
    """

    number: int
    state: ModelState
    in_flight: int = 0
    waiting: int = 0
    parallel: int = 1
    usable: bool = False
    outdated: bool = False

    @property
    def load(self) -> int:
        """Requests that are in it or wait for it."""
        return self.in_flight + self.waiting

    @property
    def is_busy(self) -> bool:
        """Whether one more request would have to wait for another one to end."""
        return self.load >= self.parallel

    @property
    def stays(self) -> bool:
        """Whether it is loaded, or about to be, and not about to go."""
        return self.state is ModelState.READY or self.state in _ARRIVING

    @property
    def is_at_rest(self) -> bool:
        """Whether it takes no room, and nobody waits for it."""
        return self.state in _AT_REST and not self.waiting


@dataclass(frozen=True, slots=True)
class Capacity:
    """``max_instances`` may be there at once, and each of them has at most ``max_queue`` requests, waiting ones too."""

    max_instances: int
    max_queue: int


def choose(instances: Sequence[Instance], capacity: Capacity, preferred: int | None = None) -> int | None:
    """Return the number of the instance that takes the next request; None when a new one must be made for it.

    A usable one does; a request waits for a load only where all of them are full. One that has an answer free comes
    before one that has not, then one that is up to date, then the ``preferred`` one, then the one with the fewest
    requests, and last the one with the lowest number, so that those with high ones become idle when there is little to
    do. When nobody can take it the least full one is chosen, which refuses.
    """
    usable = [one for one in instances if one.usable]
    free = [one for one in instances if one.load < capacity.max_queue]
    if chosen := [one for one in usable if one in free]:
        return min(chosen, key=lambda one: _cost(one, preferred)).number
    for candidates in (
        [one for one in free if one.state in _ARRIVING],
        [one for one in free if one.waiting],  # it goes, and is loaded again for those who wait
        [one for one in free if one.state is ModelState.READY],  # outdated, and loaded again
    ):
        if candidates:
            return min(candidates, key=lambda one: one.number).number
    if n_present(instances) < capacity.max_instances and not usable:
        return startable(instances, capacity)
    present = (one for one in instances if not one.is_at_rest)
    return min(present, key=lambda one: (not one.usable, one.load, one.number)).number


def _cost(one: Instance, preferred: int | None) -> tuple[bool, bool, bool, int, int]:
    return one.is_busy, one.outdated, one.number != preferred and not one.is_busy, one.load, one.number


def wants_another(instances: Sequence[Instance], capacity: Capacity, entered: int) -> bool:
    """Whether one more instance would have helped the request that went to number ``entered``.

    That is when it has to wait there for another one to end, and would have to in any other. Never while one is being
    loaded, and never beyond the bound.
    """
    chosen = instances[entered]
    return (
        chosen.load > chosen.parallel
        and n_present(instances) < capacity.max_instances
        and not any(one.state in _ARRIVING for one in instances)
        and all(one.is_busy for one in instances if one.usable)
    )


def startable(instances: Sequence[Instance], capacity: Capacity) -> int | None:
    """Return the number of an instance at rest that may be loaded; None when there is none, or may be no more."""
    if n_present(instances) >= capacity.max_instances:
        return None
    return min((one.number for one in instances if one.is_at_rest), default=None)


def n_present(instances: Sequence[Instance]) -> int:
    """Return how many take room, or will for those who wait for them."""
    return sum(not one.is_at_rest for one in instances)


def surplus(instances: Sequence[Instance], max_instances: int) -> list[int]:
    """Return those that are to go since fewer may be there: the least busy first, and of these the highest numbers."""
    ready = sorted((one for one in instances if one.state is ModelState.READY), key=lambda one: (one.load, -one.number))
    n_too_many = sum(one.stays for one in instances) - max_instances
    return [one.number for one in ready[: max(0, n_too_many)]]


class Affinities:
    """Which instance had the last request that began like this one: its cache holds that beginning. Bounded."""

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self._limit = limit
        self._numbers: OrderedDict[int, int] = OrderedDict()

    def find(self, affinity: int | None) -> int | None:
        """Return the number of that instance, None where there was none lately."""
        return None if affinity is None else self._numbers.get(affinity)

    def note(self, affinity: int | None, number: int) -> None:
        """Remember where a request went."""
        if affinity is None:
            return
        self._numbers[affinity] = number
        self._numbers.move_to_end(affinity)
        if len(self._numbers) > self._limit:
            self._numbers.popitem(last=False)
