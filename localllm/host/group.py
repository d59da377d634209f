"""One model in one mode, with as many instances behind its name as there are to be."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from localllm.contract.backend import ModelClient
from localllm.contract.errors import LocalLLMError
from localllm.contract.model import Mode, ModelSpec
from localllm.host.instances import (
    Affinities,
    Capacity,
    Instance,
    choose,
    n_present,
    startable,
    surplus,
    wants_another,
)
from localllm.host.lifecycle import ModelLifecycle
from localllm.host.residency import InstanceKey, ModelKey
from localllm.host.states import ModelStatus, sum_up
from localllm.host.stay import InstanceStay, Stay, standing_instances
from localllm.host.surroundings import Surroundings

ROOM_RETRY_SECONDS = 1.0
FAILURE_RETRY_SECONDS = 30.0
"""Until a further instance is tried again that had no room, or could not be loaded; the others do without it."""

_logger = logging.getLogger("localllm.host")


class Entry(NamedTuple):
    """One request's place: the instance, which it must leave, and the client to ask."""

    instance: ModelLifecycle
    client: ModelClient


Create = Callable[[ModelSpec, InstanceKey, InstanceStay], ModelLifecycle]


class ModelGroup:
    """All instances of one model in one mode. Used on one event loop.

    ``create`` makes an instance that is not loaded. One that was let go, or died, is loaded again before another one is
    made. ``is_wanted`` is false from when somebody has it unloaded until it is used again: until then none of
    its standing instances is loaded.
    """

    def __init__(self, spec: ModelSpec, mode: Mode, create: Create, stay: Stay, around: Surroundings) -> None:
        self.key: ModelKey = spec.id, mode
        self.stay = stay
        self.is_wanted = True
        self._spec = spec
        self._create = create
        self._around = around
        self._instances: list[ModelLifecycle] = []
        self._affinities = Affinities()
        self._rests_until = -math.inf  # before that no further instance is tried
        self._add()

    @property
    def spec(self) -> ModelSpec:
        """The model as it is now; instances that were loaded from another one are loaded anew when they are idle."""
        return self._spec

    @spec.setter
    def spec(self, spec: ModelSpec) -> None:
        if spec is not self._spec:
            self._spec = spec
            for one in self._instances:
                one.spec = spec

    @property
    def instances(self) -> Sequence[ModelLifecycle]:
        """All that there are, loaded or not, by number."""
        return self._instances

    # --- use ---

    async def enter(self, *, autoload: bool = True, affinity: int | None = None) -> Entry:
        """Return the instance that takes the request, loaded, with the caller counted until it leaves that.

        ``affinity`` is equal for requests that begin alike: while instances are free, one goes where the last of them
        went. Should the instance fail that the caller has waited for, another one that can takes over. Raises what
        :meth:`ModelLifecycle.enter` raises.
        """
        chosen = self._choose(affinity)
        try:
            client = await chosen.enter(autoload=autoload)
        except LocalLLMError:
            chosen = self._choose(affinity)
            if not chosen.view().usable:
                raise
            client = await chosen.enter(autoload=autoload)
        self.is_wanted = True
        if self._spec.max_instances > 1:
            self._affinities.note(affinity, chosen.key.number)
            self._grow(chosen.key.number)
        return Entry(chosen, client)

    def status(self) -> ModelStatus:
        """Return what is shown of it."""
        pinned = self.stay.is_pinned(self._spec) or self._standing > 0
        return sum_up([one.status() for one in self._instances], pinned=pinned)

    def _choose(self, affinity: int | None) -> ModelLifecycle:
        number = choose(self._views(), self._capacity, self._affinities.find(affinity))
        return self._add() if number is None else self._instances[number]

    def _grow(self, entered: int) -> None:
        """Start another instance where one would help, unless that was tried in vain a moment ago."""
        is_resting = self._around.clock() < self._rests_until
        if not is_resting and wants_another(self._views(), self._capacity, entered):
            self._rests_until = self._around.clock() + ROOM_RETRY_SECONDS
            one = self._next_at_rest()
            try:
                one.start_loading(spare=True).add_done_callback(lambda task: self._has_grown(one, task))
            except LocalLLMError as error:  # it has failed too often, or the server goes
                _logger.debug("no further instance of %s is started: %s", self._spec.id, error.message)

    def _has_grown(self, one: ModelLifecycle, loading: asyncio.Task[LocalLLMError | None]) -> None:
        if not loading.cancelled() and loading.result() is not None:
            self._rests_until = self._around.clock() + FAILURE_RETRY_SECONDS
        elif one.view().stays:
            self._rests_until = -math.inf

    # --- what is always to be there ---

    @property
    def is_short(self) -> bool:
        """Whether fewer are there, or on their way, than are always to be."""
        views = self._views()
        has_place = n_present(views) < self._spec.max_instances
        return self.is_wanted and has_place and sum(view.stays for view in views) < self._standing

    def trim(self) -> None:
        """Let those go that are more than there may be; busy ones when their last request is over."""
        for number in surplus(self._views(), self._spec.max_instances):
            self._instances[number].evict("replaced")

    async def renew_one(self) -> bool:
        """Let one go that is always to be there, is idle, and was loaded from what the model no longer is."""
        found = [one for one in self._instances if one.is_idle and one.view().outdated] if self._standing else []
        leaving = found[0].evict("replaced") if found else None
        if leaving is not None:
            await asyncio.wait({leaving})
        return leaving is not None

    async def load_one_more(self) -> None:
        """Load another instance and return when it is ready. Raises what loading raises."""
        loading = self._next_at_rest().start_loading()
        await asyncio.wait({loading})
        failure = None if loading.cancelled() else loading.result()
        if failure is not None:
            raise failure

    # --- letting go ---

    async def unload(self, reason: str, deadline_seconds: float, *, force: bool = False) -> bool:
        """Let all instances go, as :meth:`ModelLifecycle.unload` says."""
        self.is_wanted = False
        each = (one.unload(reason, deadline_seconds, force=force) for one in self._instances)
        outcomes = await asyncio.gather(*each, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                self.is_wanted = True  # what is in use stays
                raise outcome
        return any(outcomes)

    async def shut_down(self, deadline_seconds: float) -> None:
        """Refuse new callers at once; give those inside and those waiting until the deadline; then end everything."""
        self.is_wanted = False
        await asyncio.gather(*(one.shut_down(deadline_seconds) for one in self._instances))

    # ---

    @property
    def _standing(self) -> int:
        return standing_instances(self._spec, self.key[1])

    @property
    def _capacity(self) -> Capacity:
        return Capacity(self._spec.max_instances, self._around.max_queue)

    def _views(self) -> list[Instance]:
        return [one.view() for one in self._instances]

    def _next_at_rest(self) -> ModelLifecycle:
        number = startable(self._views(), self._capacity)
        return self._add() if number is None else self._instances[number]

    def _add(self) -> ModelLifecycle:
        number = len(self._instances)

        def rank() -> int:
            return sum(one.view().stays for one in self._instances[:number])

        def is_last() -> bool:
            return not any(one.view().stays for one in self._instances)

        stay = InstanceStay(self.stay, self.key[1], rank, is_last)
        one = self._create(self._spec, InstanceKey(*self.key, number), stay)
        self._instances.append(one)
        return one
