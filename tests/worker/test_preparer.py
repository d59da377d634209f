"""The intake thread gives every request its turn: a large one holds up no other, and a cancelled one costs nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from localllm.contract.errors import InvalidRequestError
from localllm.contract.generation import Failed, GenerateRequest, TextPrompt
from localllm.contract.wire import Batch, Submit
from localllm.transport.codec import decode_from_worker
from localllm.transport.framing import FrameReader
from localllm.worker.inbox import Arrival, Commands, Inbox
from localllm.worker.outbox import Outbox
from localllm.worker.preparer import Preparer


@dataclass(frozen=True)
class Done:
    request_id: str


class Slices:
    """A discipline that only prepares: request ``a3`` takes three slices; ``do`` is what happens in each of them."""

    def __init__(self) -> None:
        self.slices: list[str] = []
        self.do: dict[str, Callable[[], object]] = {}

    def prepare(self, submit: Submit, queued_at: float) -> Iterator[Done | None]:
        request_id = submit.request_id
        for number in range(1, int(request_id[1:]) + 1):
            name = f"{request_id}.{number}"
            self.slices.append(name)
            self.do.get(name, lambda: None)()
            if number < int(request_id[1:]):
                yield None
        yield Done(request_id)


class Kit:
    """A preparer in a thread of its own, and what it hands over and sends."""

    def __init__(self) -> None:
        self.inbox: Inbox[Done] = Inbox()
        self.discipline = Slices()
        self.sent: list[Batch] = []
        self._outbox = Outbox(self._write, is_writable=lambda: True)
        self._preparer = Preparer(self.discipline, self.inbox, self._outbox)  # type: ignore[arg-type]

    def start(self) -> None:
        threading.Thread(target=self._preparer.run, daemon=True).start()

    def submit(self, *request_ids: str) -> None:
        for request_id in request_ids:
            self.inbox.submit(Arrival(Submit(request_id, GenerateRequest(TextPrompt("x"))), at=0.0))

    def prepared(self, count: int) -> list[str]:
        """Wait for so many requests and return them in the order in which they were ready."""
        found: list[str] = []
        while len(found) < count:
            commands: Commands[Done] = self.inbox.take(block=True)
            assert not commands.shutdown, "it did not prepare them all"
            found += [request.request_id for request in commands.submits]
        return found

    def _write(self, data: bytes) -> None:
        for payload in FrameReader().feed(data):
            message = decode_from_worker(payload)
            assert isinstance(message, Batch)
            self.sent.append(message)


@pytest.fixture
def kit() -> Iterator[Kit]:
    kit = Kit()
    timer = threading.Timer(20, kit.inbox.shut_down)  # so that a failure does not wait for ever
    timer.start()
    yield kit
    timer.cancel()


def test_requests_take_turns_slice_by_slice(kit: Kit) -> None:
    kit.submit("a3", "b1", "c2")
    kit.start()
    assert kit.prepared(3) == ["b1", "c2", "a3"]
    assert kit.discipline.slices == ["a3.1", "b1.1", "c2.1", "a3.2", "c2.2", "a3.3"]


def test_a_request_that_arrives_meanwhile_waits_for_one_round_only(kit: Kit) -> None:
    kit.discipline.do["a9.4"] = lambda: kit.submit("b1")
    kit.submit("a9")
    kit.start()
    assert kit.prepared(2) == ["b1", "a9"]
    assert kit.discipline.slices[3:6] == ["a9.4", "a9.5", "b1.1"]


def test_the_rest_of_a_cancelled_request_is_not_done(kit: Kit) -> None:
    kit.discipline.do["a9.2"] = lambda: kit.inbox.cancel("a9")
    kit.submit("a9", "b3")
    kit.start()
    assert kit.prepared(1) == ["b3"]
    assert [name for name in kit.discipline.slices if name.startswith("a9")] == ["a9.1", "a9.2"]


def test_a_cancel_in_the_last_slice_still_drops_the_request(kit: Kit) -> None:
    kit.discipline.do["a1.1"] = lambda: kit.inbox.cancel("a1")
    kit.submit("a1", "b1")
    kit.start()
    assert kit.prepared(1) == ["b1"]
    assert kit.inbox.take(block=False) == Commands()


def test_an_error_in_any_slice_ends_that_request_alone(kit: Kit) -> None:
    def refuse() -> None:
        raise InvalidRequestError("input 7 is empty", param="input")

    kit.discipline.do["a3.2"] = refuse
    kit.discipline.do["b3.3"] = lambda: 1 // 0
    kit.submit("a3", "b3", "c4")
    kit.start()
    assert kit.prepared(1) == ["c4"]
    failures = {request_id: event for batch in kit.sent for request_id, event in batch.events}
    assert failures["a3"] == Failed(InvalidRequestError("input 7 is empty", param="input").to_wire())
    failed = failures["b3"]
    assert isinstance(failed, Failed)
    assert (failed.error["code"], "ZeroDivisionError" in str(failed.error["message"])) == ("internal_error", True)


def test_the_error_of_a_cancelled_request_is_not_sent(kit: Kit) -> None:
    def cancel_and_fail() -> None:
        kit.inbox.cancel("a2")
        raise InvalidRequestError("too late")

    kit.discipline.do["a2.2"] = cancel_and_fail
    kit.submit("a2", "b3")
    kit.start()
    assert kit.prepared(1) == ["b3"]
    assert kit.sent == []
