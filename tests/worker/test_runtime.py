"""What steps bring goes out in order and soon; steps that take next to no time share a frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.contract.generation import Chunk
from localllm.contract.wire import Batch
from localllm.engine.step_loop import StepResult
from localllm.transport.codec import decode_from_worker
from localllm.transport.framing import FrameReader
from localllm.worker.inbox import Inbox
from localllm.worker.outbox import Outbox
from localllm.worker.runtime import Runtime

FRAME_MS = 12


class Engine:
    """Brings one event a step; a step takes as many milliseconds as it says. The worker is told to end with the last.

    ``n_cancelled`` of the last steps never happen: whoever wanted them has gone.
    """

    def __init__(self, steps: Sequence[int], n_cancelled: int = 0, *, fails: bool = False) -> None:
        self.now = 0
        self.inbox: Inbox[Any] = Inbox()
        self.brought: list[tuple[int, str]] = []
        self.frames: list[tuple[int, list[str]]] = []
        self._left = list(steps)
        self._n_cancelled = n_cancelled
        self._fails = fails
        if not steps:
            self.inbox.shut_down()

    @property
    def has_work(self) -> bool:
        return len(self._left) > self._n_cancelled

    def step(self) -> StepResult:
        self.now += self._left.pop(0)
        if not self.has_work:
            self.inbox.shut_down()
            if self._fails:
                raise RuntimeError("the engine broke")
        text = str(len(self.brought))
        self.brought.append((self.now, text))
        return StepResult((("r1", Chunk(0, text, 1)),), 0)

    def write(self, data: bytes) -> None:
        for payload in FrameReader().feed(data):
            batch = cast(Batch, decode_from_worker(payload))
            self.frames.append((self.now, [cast(Chunk, event).text for _, event in batch.events]))

    def run(self, frame_ms: int) -> None:
        discipline: Any = SimpleNamespace(loop=self, frame_seconds=frame_ms, prepare=None)
        outbox = Outbox(self.write, is_writable=lambda: True)
        Runtime(discipline, self.inbox, outbox, clock=lambda: self.now).run()


@settings(max_examples=50)
@given(steps=st.lists(st.integers(0, 30), max_size=20), n_cancelled=st.integers(0, 3))
def test_all_events_go_out_in_order_and_none_waits_longer_than_a_frame_and_a_step(
    steps: list[int], n_cancelled: int
) -> None:
    engine = Engine(steps, min(n_cancelled, max(0, len(steps) - 1)))
    engine.run(FRAME_MS)
    assert [text for _, texts in engine.frames for text in texts] == [text for _, text in engine.brought]
    sent = {text: at for at, texts in engine.frames for text in texts}
    assert all(sent[text] - at < FRAME_MS + max(steps) for at, text in engine.brought)
    starts = [at for at, _ in engine.frames]
    assert all(after - before >= FRAME_MS for before, after in pairwise(starts[:-1]))


def test_a_step_that_takes_longer_than_a_frame_is_sent_at_once() -> None:
    engine = Engine([0, 20, 20, 20])
    engine.run(FRAME_MS)
    assert engine.frames == [(0, ["0"]), (20, ["1"]), (40, ["2"]), (60, ["3"])]


def test_short_steps_share_frames() -> None:
    engine = Engine([8] * 6)
    engine.run(FRAME_MS)
    assert engine.frames == [(8, ["0"]), (24, ["1", "2"]), (40, ["3", "4"]), (48, ["5"])]


def test_without_a_pause_each_step_is_sent() -> None:
    engine = Engine([0] * 3)
    engine.run(0)
    assert [texts for _, texts in engine.frames] == [["0"], ["1"], ["2"]]


def test_what_was_brought_before_the_engine_broke_is_sent() -> None:
    engine = Engine([1, 1, 1], fails=True)
    with pytest.raises(RuntimeError, match="the engine broke"):
        engine.run(FRAME_MS)
    assert [texts for _, texts in engine.frames] == [["0"], ["1"]]
