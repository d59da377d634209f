"""Keeps the states of conversations that left the KV cache, as the scheduler orders, and files them at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from localllm.contract.decoder import Decoder, Plan, SavingDecoder, State
from localllm.engine.saved import Save
from localllm.engine.scheduler import Scheduler
from localllm.engine.sequence import Scope


@dataclass(frozen=True, slots=True)
class Conversation:
    """Whose state it is: the tokens that were evaluated, the first ``prompt_length`` of which were the last prompt."""

    owner: str
    group: str
    tokens: Sequence[int]
    prompt_length: int


class StateFiles(Protocol):
    """States that outlive the process. Used by the step thread only; no method raises ``OSError``."""

    def index(self) -> Sequence[tuple[str, Conversation]]:
        """Return (name, conversation) of all that are there for this model, least recently used first."""
        ...

    def read(self, name: str) -> State | None:
        """Return a state that is what was written, to the bit; None if there is none."""
        ...

    def write(self, conversation: Conversation, state: State, is_late: Callable[[], bool]) -> bool:
        """File a state, giving up when it is late; False when there is no use in offering older ones."""
        ...


class StateKeeper:
    """Holds states by the handles that the scheduler knows them by. Used by the step thread only."""

    def __init__(self, decoder: Decoder, scheduler: Scheduler, files: StateFiles | None) -> None:
        self._decoder = cast(SavingDecoder, decoder)
        self._scheduler = scheduler
        self._files = files
        self._states: dict[int, State] = {}
        self._names: dict[int, str] = {}  # of files
        for name, filed in () if files is None else files.index():
            scope = Scope("owner", filed.owner, filed.group)
            handle = scheduler.saved.add_file(scope, filed.tokens, filed.prompt_length)
            if handle is not None:
                self._names[handle] = name

    def save(self, saves: Sequence[Save]) -> None:
        """Carry out orders to save, and let go of what the scheduler has dropped."""
        for save in saves:
            state = self._decoder.save(save.seq)
            if state is None:
                self._scheduler.saved.lose(save.handle)
            else:
                self._states[save.handle] = state
        for handle in self._scheduler.saved.take_dropped():
            self._states.pop(handle, None)

    def restore(self) -> None:
        """Put back into the cache what the scheduler wants there before its next step."""
        order = self._scheduler.restore()
        if order is None:
            return
        self.save(order.saves)
        if order.ops:
            self._decoder.submit(Plan(order.ops))
            self._decoder.collect()
        state = self._take(order.saved.handle)
        done = state is not None and self._decoder.restore(order.seq, state, len(order.saved.tokens))
        self._scheduler.commit_restore(order, done=done)

    def _take(self, handle: int) -> State | None:
        name = self._names.get(handle)
        if name is None or self._files is None:
            return self._states.pop(handle, None)
        return self._files.read(name)

    def file(self, is_late: Callable[[], bool]) -> None:
        """Write what is worth keeping to files, most recently used first, until it is late. Between two steps."""
        if self._files is None:
            return
        for conversation, state in self._worth_filing():
            if is_late() or not self._files.write(conversation, state, is_late):
                return

    def _worth_filing(self) -> Iterator[tuple[Conversation, State]]:
        for one in self._scheduler.worth_keeping():
            if (state := self._decoder.save(one.seq)) is not None:
                tokens = one.tokens[: one.evaluated]
                yield Conversation(one.scope.name, one.scope.group, tokens, one.prompt_length), state
        for saved in self._scheduler.saved.in_memory():
            if saved.handle in self._states:
                conversation = Conversation(saved.scope.name, saved.scope.group, saved.tokens, saved.prompt_length)
                yield conversation, self._states[saved.handle]
