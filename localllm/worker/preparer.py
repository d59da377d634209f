"""The intake thread: prepares requests in turns, so that a large one holds up no other."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from localllm.contract.errors import LocalLLMError
from localllm.contract.generation import Failed
from localllm.contract.texts import TextResult
from localllm.contract.wire import WorkerEvent
from localllm.worker.discipline import Discipline
from localllm.worker.inbox import Arrival, Inbox, Prepared
from localllm.worker.outbox import Outbox

_MESSAGE_CHARACTERS = 4_000

PreparedT = TypeVar("PreparedT", bound=Prepared)


class _Preparation(NamedTuple, Generic[PreparedT]):
    """A request of which a part is done."""

    request_id: str
    slices: Iterator[PreparedT | TextResult | None]


class Preparer(Generic[PreparedT]):
    """Takes arrivals from the inbox and gives them back prepared, or sends what ends them: an answer or an error."""

    def __init__(self, discipline: Discipline[PreparedT], inbox: Inbox[PreparedT], outbox: Outbox) -> None:
        self._discipline = discipline
        self._inbox = inbox
        self._outbox = outbox
        self._turns: deque[_Preparation[PreparedT]] = deque()

    def run(self) -> None:
        """Prepare for ever (intake thread): a slice of each request in turn."""
        while True:
            if not self._turns:
                self._begin(self._inbox.next_arrival())
            while (arrival := self._inbox.poll_arrival()) is not None:
                self._begin(arrival)
            preparation = self._turns.popleft()
            if self._inbox.is_wanted(preparation.request_id):
                self._go_on(preparation)

    def _begin(self, arrival: Arrival) -> None:
        slices = self._discipline.prepare(arrival.submit, arrival.at)
        self._turns.append(_Preparation(arrival.submit.request_id, slices))

    def _go_on(self, preparation: _Preparation[PreparedT]) -> None:
        try:
            prepared = next(preparation.slices)
        except Exception as error:  # noqa: BLE001 - templates are foreign code: their faults end one request only
            self._answer(preparation.request_id, Failed(_as_error(error).to_wire()))
        else:
            if prepared is None:
                self._turns.append(preparation)
            elif isinstance(prepared, TextResult):
                self._answer(preparation.request_id, prepared)
            else:
                self._inbox.hand_over(prepared)

    def _answer(self, request_id: str, event: WorkerEvent) -> None:
        """End a request that the step thread never sees."""
        if self._inbox.refuse(request_id):
            self._outbox.put([(request_id, event)])


def _as_error(error: Exception) -> LocalLLMError:
    if isinstance(error, LocalLLMError):
        error.message = error.message[:_MESSAGE_CHARACTERS]
        return error
    traceback.print_exception(error)
    return LocalLLMError(f"The prompt could not be prepared: {type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS])
