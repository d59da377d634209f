"""Cancels overtake, nothing slips through between two threads, and an idle inbox blocks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from localllm.contract.generation import GenerateRequest, SamplingParams, TokenPrompt
from localllm.contract.wire import Submit
from localllm.engine.step_loop import PreparedRequest
from localllm.worker.inbox import Arrival, Commands, Inbox


def arrival(request_id: str) -> Arrival:
    return Arrival(Submit(request_id, GenerateRequest(TokenPrompt((1,)))), at=0.0)


def prepared(request_id: str) -> PreparedRequest:
    return PreparedRequest(request_id, (1,), SamplingParams(), "", True, 0.0)


def ids(commands: Commands[PreparedRequest]) -> list[str]:
    return [request.request_id for request in commands.submits]


def test_a_request_passes_from_reader_to_intake_to_steps() -> None:
    inbox: Inbox[PreparedRequest] = Inbox()
    inbox.submit(arrival("r1"))
    assert inbox.next_arrival().submit.request_id == "r1"
    inbox.hand_over(prepared("r1"))
    assert inbox.take(block=True) == Commands(submits=(prepared("r1"),))
    assert inbox.take(block=False) == Commands()


def test_a_cancel_reaches_a_request_that_waits_for_rendering() -> None:
    inbox: Inbox[PreparedRequest] = Inbox()
    inbox.submit(arrival("r1"))
    inbox.submit(arrival("r2"))
    inbox.cancel("r1")
    assert inbox.next_arrival().submit.request_id == "r2"
    assert inbox.take(block=False) == Commands(), "the step loop never heard of it"


def test_a_cancel_during_rendering_drops_the_result_and_its_error() -> None:
    inbox: Inbox[PreparedRequest] = Inbox()
    for request_id in ("r1", "r2"):
        inbox.submit(arrival(request_id))
        inbox.next_arrival()
        inbox.cancel(request_id)
    inbox.hand_over(prepared("r1"))
    assert not inbox.refuse("r2"), "nobody waits for the error any more"
    assert inbox.take(block=False) == Commands()


def test_a_cancel_that_lies_beside_its_request_wins() -> None:
    inbox: Inbox[PreparedRequest] = Inbox()
    for request_id in ("r1", "r2"):
        inbox.submit(arrival(request_id))
        inbox.next_arrival()
        inbox.hand_over(prepared(request_id))
    inbox.cancel("r1")
    commands = inbox.take(block=True)
    assert (commands.cancels, ids(commands)) == (("r1",), ["r2"])


def blocked_until(act: Callable[[], None], wait: Callable[[], object]) -> object:
    """Return what ``wait`` returns in a thread that ``act`` wakes."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(wait()))
    thread.start()
    act()
    thread.join(10)
    assert not thread.is_alive(), "it was not woken"
    return results[0]


def test_an_idle_step_thread_is_woken_by_each_kind_of_command() -> None:
    inbox: Inbox[PreparedRequest] = Inbox()
    assert blocked_until(lambda: inbox.cancel("r9"), lambda: inbox.take(block=True)) == Commands(cancels=("r9",))
    inbox.submit(arrival("r1"))
    inbox.next_arrival()
    woken = blocked_until(lambda: inbox.hand_over(prepared("r1")), lambda: inbox.take(block=True))
    assert isinstance(woken, Commands)
    assert ids(woken) == ["r1"]
    assert blocked_until(inbox.shut_down, lambda: inbox.take(block=True)) == Commands(shutdown=True)


def test_waiting_uses_no_processor_time() -> None:
    inbox: Inbox[PreparedRequest] = Inbox()
    used: list[float] = []

    def wait() -> None:
        inbox.take(block=True)
        used.append(time.thread_time())

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.3)
    inbox.shut_down()
    thread.join(10)
    assert used[0] < 0.1


class InboxMachine(RuleBasedStateMachine):
    """Any interleaving: what was not cancelled arrives exactly once, in order; what was cancelled never starts."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox: Inbox[PreparedRequest] = Inbox()
        self.count = 0
        self.waiting: list[str] = []
        self.preparing: list[str] = []
        self.handed: list[str] = []
        self.running: set[str] = set()
        self.cancelled: set[str] = set()

    @rule()
    def submit(self) -> None:
        self.count += 1
        self.inbox.submit(arrival(f"r{self.count}"))
        self.waiting.append(f"r{self.count}")

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        known = [f"r{number}" for number in range(1, self.count + 1)]  # a server cancels what it has submitted
        request_id = data.draw(st.sampled_from([*known, "nobody"]))
        self.cancelled.add(request_id)
        self.inbox.cancel(request_id)

    @precondition(lambda self: set(self.waiting) - self.cancelled)
    @rule(blocking=st.booleans())
    def start_preparing(self, blocking: bool) -> None:
        wanted = [request_id for request_id in self.waiting if request_id not in self.cancelled]
        arrival = self.inbox.next_arrival() if blocking else self.inbox.poll_arrival()
        assert arrival is not None
        assert arrival.submit.request_id == wanted[0]
        self.preparing.append(wanted[0])
        self.waiting = wanted[1:]

    @precondition(lambda self: not set(self.waiting) - self.cancelled)
    @rule()
    def find_nothing_to_prepare(self) -> None:
        assert self.inbox.poll_arrival() is None

    @precondition(lambda self: self.preparing)
    @rule(good=st.booleans(), data=st.data())
    def finish_preparing(self, good: bool, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(self.preparing))
        wanted = request_id not in self.cancelled
        assert self.inbox.is_wanted(request_id) == wanted
        if good:
            self.inbox.hand_over(prepared(request_id))
            if wanted:
                self.handed.append(request_id)
        else:
            assert self.inbox.refuse(request_id) == wanted
        self.preparing.remove(request_id)

    @rule()
    def step(self) -> None:
        commands = self.inbox.take(block=False)
        self.running -= set(commands.cancels)
        assert ids(commands) == [request_id for request_id in self.handed if request_id not in self.cancelled]
        self.running |= set(ids(commands))
        self.handed = []
        assert not self.running & self.cancelled

    @invariant()
    def running_requests_were_asked_for(self) -> None:
        assert all(1 <= int(request_id[1:]) <= self.count for request_id in self.running)


TestInboxMachine = InboxMachine.TestCase
TestInboxMachine.settings = settings(stateful_step_count=30)
