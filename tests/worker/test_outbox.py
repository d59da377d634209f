"""One frame per step while the pipe keeps up, fewer when it does not, and never an unbounded heap of events."""

from __future__ import annotations

import threading

from localllm.contract.generation import Chunk, PromptLogprobs, PromptToken, TokenAlternative
from localllm.contract.pooling import Pooled
from localllm.contract.wire import Batch, WorkerEvent
from localllm.transport.codec import decode_from_worker
from localllm.transport.framing import FrameReader
from localllm.worker.outbox import MAX_DATA_BYTES_PER_FRAME, MAX_EVENTS_PER_FRAME, SMALL_FRAME_BYTES, Outbox


class Pipe:
    """Takes frames; while it is shut, a write waits."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.batches: list[Batch] = []

    def write(self, data: bytes) -> None:
        self.entered.set()
        assert self.open.wait(10)
        for payload in FrameReader().feed(data):
            message = decode_from_worker(payload)
            assert isinstance(message, Batch)
            self.batches.append(message)


def event(number: int) -> tuple[str, Chunk]:
    return "r1", Chunk(0, str(number), 1)


def start(outbox: Outbox) -> None:
    threading.Thread(target=outbox.run, daemon=True).start()


def test_each_step_is_one_frame_with_all_events_and_counts() -> None:
    pipe = Pipe()
    outbox = Outbox(pipe.write)
    start(outbox)
    for step in range(3):
        outbox.put([event(step), event(step)], prefilled_tokens=step)
        assert outbox.flush(10)
    assert [(len(batch.events), batch.prefilled_tokens) for batch in pipe.batches] == [(2, 0), (2, 1), (2, 2)]


def test_a_step_that_brought_nothing_writes_nothing_and_prefill_alone_is_a_sign_of_life() -> None:
    pipe = Pipe()
    outbox = Outbox(pipe.write)
    start(outbox)
    outbox.put([])
    outbox.put([], prefilled_tokens=5)
    assert outbox.flush(10)
    assert pipe.batches == [Batch((), 5)]


def stuck(first: tuple[str, WorkerEvent], **limits: int) -> tuple[Pipe, Outbox]:
    """Return an outbox that can't get rid of what it was given first, until the pipe is open."""
    pipe = Pipe()
    outbox = Outbox(pipe.write, **limits)
    pipe.open.clear()
    start(outbox)
    outbox.put([first])
    assert pipe.entered.wait(10)
    return pipe, outbox


def test_steps_are_merged_in_order_while_the_pipe_is_full() -> None:
    pipe = Pipe()
    outbox = Outbox(pipe.write)
    pipe.open.clear()
    start(outbox)
    outbox.put([event(0)], 1)
    assert pipe.entered.wait(10)
    for number in range(1, 6):
        outbox.put([event(number)], 1)
    pipe.open.set()
    assert outbox.flush(10)
    assert [batch.prefilled_tokens for batch in pipe.batches] == [1, 5]
    assert [item for batch in pipe.batches for item in batch.events] == [event(number) for number in range(6)]


def check_a_step_waits(outbox: Outbox, pipe: Pipe, last: tuple[str, Chunk | Pooled]) -> None:
    """Put one event more while the pipe is full, and see that this returns only when it is read."""
    done = threading.Event()

    def step() -> None:
        outbox.put([last])
        done.set()

    stepping = threading.Thread(target=step)
    stepping.start()
    stepping.join(0.2)
    assert not done.is_set(), "it went on"
    pipe.open.set()
    assert done.wait(10)
    assert outbox.flush(10)


def test_a_step_loop_waits_when_too_much_is_unread() -> None:
    pipe, outbox = stuck(event(0), max_waiting=4)
    outbox.put([event(number) for number in range(4)])
    check_a_step_waits(outbox, pipe, event(9))
    assert sum(len(batch.events) for batch in pipe.batches) == 6


def test_a_heap_of_events_goes_out_in_frames_of_bounded_size() -> None:
    pipe = Pipe()
    outbox = Outbox(pipe.write)
    outbox.put([event(number) for number in range(MAX_EVENTS_PER_FRAME + 1)])
    start(outbox)
    assert outbox.flush(10)
    assert [len(batch.events) for batch in pipe.batches] == [MAX_EVENTS_PER_FRAME, 1]


def test_log_probabilities_of_prompts_go_out_in_frames_of_bounded_size() -> None:
    pipe = Pipe()
    outbox = Outbox(pipe.write)
    top = tuple(TokenAlternative("a", b"a", -1.0, 1) for _ in range(20))
    told = PromptLogprobs((PromptToken(1, "a", b"a", -1.0, top),) * 64)
    outbox.put([("r1", told)] * 20)
    start(outbox)
    assert outbox.flush(10)
    assert [item for batch in pipe.batches for item in batch.events] == [("r1", told)] * 20
    assert max(len(batch.events) for batch in pipe.batches) == 3


def test_flush_gives_up_when_nobody_reads() -> None:
    pipe = Pipe()
    outbox = Outbox(pipe.write)
    pipe.open.clear()
    start(outbox)
    outbox.put([event(0)])
    assert not outbox.flush(0.05)
    pipe.open.set()
    assert outbox.flush(10)


def test_a_small_frame_is_written_by_the_caller_while_the_pipe_takes_it() -> None:
    pipe, writable = Pipe(), [True]
    outbox = Outbox(pipe.write, is_writable=lambda: writable[0])  # no output thread: what waits stays
    outbox.put([event(0)])
    assert len(pipe.batches) == 1
    writable[0] = False
    outbox.put([event(1)])
    writable[0] = True
    outbox.put([event(2)])
    assert len(pipe.batches) == 1, "an event overtook one that waits"
    start(outbox)
    assert outbox.flush(5)
    assert [item for batch in pipe.batches for item in batch.events] == [event(number) for number in range(3)]


def test_a_large_frame_is_left_to_the_output_thread() -> None:
    pipe = Pipe()
    outbox = Outbox(pipe.write, is_writable=lambda: True)
    outbox.put([("r1", Chunk(0, "x" * SMALL_FRAME_BYTES, 1))])
    assert pipe.batches == []
    start(outbox)
    assert outbox.flush(5)
    assert len(pipe.batches) == 1


def vectors(n_bytes: int) -> tuple[str, Pooled]:
    return "r1", Pooled((0,), bytes(n_bytes))


def test_vectors_go_out_in_frames_of_bounded_size_and_a_longer_event_alone() -> None:
    pipe = Pipe()
    outbox = Outbox(pipe.write)
    third = MAX_DATA_BYTES_PER_FRAME // 12 * 4
    sizes = [third] * 7 + [2 * MAX_DATA_BYTES_PER_FRAME, 4]
    outbox.put([vectors(size) for size in sizes])
    start(outbox)
    assert outbox.flush(10)
    frames = [[len(pooled.data) for _, pooled in batch.events if isinstance(pooled, Pooled)] for batch in pipe.batches]
    assert frames == [[third] * 3, [third] * 3, [third], [2 * MAX_DATA_BYTES_PER_FRAME], [4]]


def test_a_step_loop_waits_when_too_many_vectors_are_unread() -> None:
    pipe, outbox = stuck(vectors(4), max_waiting_data_bytes=4_000)
    outbox.put([vectors(5_000)])
    check_a_step_waits(outbox, pipe, vectors(8))
    assert [len(pooled.data) for batch in pipe.batches for _, pooled in batch.events if isinstance(pooled, Pooled)] == [
        4,
        5_000,
        8,
    ]


def test_a_few_small_vectors_are_written_by_the_caller_and_many_are_not() -> None:
    pipe = Pipe()
    outbox = Outbox(pipe.write, is_writable=lambda: True)
    outbox.put([vectors(1_536)])
    assert len(pipe.batches) == 1
    outbox.put([vectors(1_536)] * 4)
    assert len(pipe.batches) == 1
    start(outbox)
    assert outbox.flush(5)
    assert len(pipe.batches) == 2
