"""Where requests and cancels wait, between the thread that reads them, the intake thread and the step thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from localllm.contract.wire import Submit


class Prepared(Protocol):
    """A request that is ready for the step thread: its inputs are tokens."""

    @property
    def request_id(self) -> str:
        """As the server chose it."""
        ...


PreparedT = TypeVar("PreparedT", bound=Prepared)


@dataclass(frozen=True, slots=True)
class Commands(Generic[PreparedT]):
    """What the step thread has to do before its next step, cancels first."""

    cancels: tuple[str, ...] = ()
    submits: tuple[PreparedT, ...] = ()
    shutdown: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it came in, and when (seconds of the worker's clock)."""

    submit: Submit
    at: float


class Inbox(Generic[PreparedT]):
    """Passes commands on so that a cancel overtakes every request that waits to be prepared (rendered, tokenised).

    A cancel of a request that the intake thread has not handed over is settled here; any other goes to the step
    thread. Both happen under one lock, so that no request slips through between the two. Waiting blocks without a time
    limit: an idle worker uses no CPU at all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._for_intake = threading.Condition(self._lock)
        self._for_steps = threading.Condition(self._lock)
        self._arrivals: dict[str, Arrival] = {}  # in order of their coming
        self._preparing: set[str] = set()
        self._submits: list[PreparedT] = []
        self._cancels: list[str] = []
        self._shutdown = False

    def submit(self, arrival: Arrival) -> None:
        """Queue a request to be prepared (reader thread)."""
        with self._lock:
            self._arrivals[arrival.submit.request_id] = arrival
            self._for_intake.notify()

    def cancel(self, request_id: str) -> None:
        """Forget a request, wherever it is (reader thread)."""
        with self._lock:
            if self._arrivals.pop(request_id, None) is not None:
                return
            if request_id in self._preparing:
                self._preparing.remove(request_id)
            else:
                self._cancels.append(request_id)
                self._for_steps.notify()

    def shut_down(self) -> None:
        """Wake the step thread for the last time (reader thread)."""
        with self._lock:
            self._shutdown = True
            self._for_steps.notify()

    def next_arrival(self) -> Arrival:
        """Block until a request waits to be prepared, and return the oldest one (intake thread)."""
        with self._lock:
            while not self._arrivals:
                self._for_intake.wait()
            return self._begin_oldest()

    def poll_arrival(self) -> Arrival | None:
        """Return the oldest request that waits to be prepared, if there is one (intake thread)."""
        with self._lock:
            return self._begin_oldest() if self._arrivals else None

    def is_wanted(self, request_id: str) -> bool:
        """Whether a request that is being prepared was not cancelled meanwhile (intake thread)."""
        with self._lock:
            return request_id in self._preparing

    def hand_over(self, request: PreparedT) -> None:
        """Give a prepared request to the step thread, unless it was cancelled meanwhile (intake thread)."""
        with self._lock:
            if self._settle(request.request_id):
                self._submits.append(request)
                self._for_steps.notify()

    def refuse(self, request_id: str) -> bool:
        """Forget a request that is not handed over; return whether anybody still waits for it (intake thread)."""
        with self._lock:
            return self._settle(request_id)

    def take(self, *, block: bool) -> Commands[PreparedT]:
        """Return all commands so far, after waiting for one when ``block`` is set (step thread)."""
        with self._lock:
            while block and not (self._submits or self._cancels or self._shutdown):
                self._for_steps.wait()
            if not (self._submits or self._cancels):
                return Commands(shutdown=self._shutdown)
            cancelled = set(self._cancels)
            # Ids are never used twice, so a cancel that lies here beside its request came after it.
            submits = tuple(request for request in self._submits if request.request_id not in cancelled)
            commands = Commands(tuple(self._cancels), submits, self._shutdown)
            self._submits.clear()
            self._cancels.clear()
            return commands

    def _begin_oldest(self) -> Arrival:
        request_id = next(iter(self._arrivals))
        self._preparing.add(request_id)
        return self._arrivals.pop(request_id)

    def _settle(self, request_id: str) -> bool:
        wanted = request_id in self._preparing
        self._preparing.discard(request_id)
        return wanted
