"""Workers that follow a script instead of the rules: ``python faulty_workers.py SCRIPT``, named by the fault.

A script gets the two ends of the pipe. It says Hello as a real worker does, unless that is its fault.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

from localllm.contract.generation import Chunk, Finished, Started, Timings, Usage
from localllm.contract.model import ModelInfo
from localllm.contract.pooling import Pooled, PoolFinished
from localllm.contract.wire import (
    Batch,
    Cancel,
    FromWorker,
    Hello,
    LoadFailed,
    Ready,
    Shutdown,
    Submit,
    ToWorker,
    WorkerEvent,
)
from localllm.transport.codec import decode_to_worker, encode_from_worker
from localllm.transport.framing import pack_frame, read_frame

FINISHED = Finished(Usage(1, 1), Timings(0.0, 0.0, 0.0))


class Pipe:
    """A worker's two pipes, with no manners."""

    def __init__(self) -> None:
        self._stream: BinaryIO = sys.stdin.buffer

    def raw(self, data: bytes) -> None:
        while data:
            data = data[os.write(1, data) :]

    def send(self, message: FromWorker) -> None:
        self.raw(pack_frame(encode_from_worker(message)))

    def events(self, *events: tuple[str, WorkerEvent]) -> None:
        self.send(Batch(events))

    def receive(self) -> ToWorker | None:
        payload = read_frame(self._stream)
        return None if payload is None else decode_to_worker(payload)

    def get_ready(self) -> None:
        assert isinstance(self.receive(), Hello)
        self.send(Ready(ModelInfo(128, 258)))

    def submitted(self) -> str:
        """Wait for a request and answer its first half."""
        submit = self.receive()
        assert isinstance(submit, Submit)
        self.events((submit.request_id, Started(1)), (submit.request_id, Chunk(0, "half", 1)))
        return submit.request_id

    def until_the_end(self) -> None:
        while not isinstance(self.receive(), Shutdown | None):
            continue


def well_behaved(pipe: Pipe) -> None:
    pipe.get_ready()
    while isinstance(message := pipe.receive(), Submit):
        pipe.events((message.request_id, Started(1)), (message.request_id, Chunk(0, "ok", 1)))
        pipe.events((message.request_id, FINISHED))


def garbage_frame(pipe: Pipe) -> None:
    pipe.get_ready()
    pipe.submitted()
    pipe.raw(pack_frame(b"\x00garbage\xff"))
    pipe.until_the_end()


def frame_of_four_gigabytes(pipe: Pipe) -> None:
    pipe.get_ready()
    pipe.submitted()
    pipe.raw(b"\xff\xff\xff\xff" + b"x" * 100_000)
    pipe.until_the_end()


def half_frame_then_exit(pipe: Pipe) -> None:
    pipe.get_ready()
    pipe.submitted()
    pipe.raw(b"\x00\x00\x10\x00half")


def exit_0_in_mid_stream(pipe: Pipe) -> None:
    pipe.get_ready()
    pipe.submitted()


def unknown_request_id(pipe: Pipe) -> None:
    pipe.get_ready()
    pipe.submitted()
    pipe.events(("r999", Chunk(0, "for nobody", 1)))
    pipe.until_the_end()


def ready_twice(pipe: Pipe) -> None:
    pipe.get_ready()
    pipe.submitted()
    pipe.send(Ready(ModelInfo(128, 258)))
    pipe.until_the_end()


def finished_twice(pipe: Pipe) -> None:
    pipe.get_ready()
    request_id = pipe.submitted()
    pipe.events((request_id, FINISHED), (request_id, FINISHED), (request_id, Chunk(0, "late", 1)))
    pipe.events((pipe.submitted(), FINISHED))
    pipe.until_the_end()


def batch_before_ready(pipe: Pipe) -> None:
    pipe.receive()
    pipe.events(("r1", Started(1)))
    pipe.until_the_end()


def print_instead_of_a_frame(pipe: Pipe) -> None:
    pipe.receive()
    pipe.raw(b"loading model, please wait\n")
    pipe.until_the_end()


def refuse_to_load_and_stay(pipe: Pipe) -> None:
    pipe.receive()
    pipe.send(LoadFailed({"code": "model_file_invalid", "message": "tensor 3 is cut off"}))
    threading.Event().wait()


def never_ready(pipe: Pipe) -> None:
    pipe.until_the_end()


def exit_1_while_loading(pipe: Pipe) -> None:
    pipe.receive()
    os.write(2, b"error: no such device\nsee the manual\n")
    sys.exit(1)


def stderr_flood(pipe: Pipe) -> None:
    pipe.get_ready()
    request_id = pipe.submitted()
    for _ in range(300):
        os.write(2, b"y" * 100_000)
    os.write(2, b"\nGGML_ASSERT(flood) failed\n")
    pipe.events((request_id, FINISHED))
    pipe.submitted()
    os.abort()


def grandchild_holds_the_pipes(pipe: Pipe) -> None:
    pipe.get_ready()
    pipe.submitted()
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    os.write(2, f"grandchild {child.pid}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def closes_its_pipe_and_goes_on(pipe: Pipe) -> None:
    pipe.get_ready()
    pipe.submitted()
    os.closerange(3, 256)  # uvloop leaves copies of the pipes behind
    os.close(1)
    threading.Event().wait()


def stops_listening(pipe: Pipe) -> None:
    pipe.get_ready()
    pipe.submitted()
    os.closerange(3, 256)
    os.close(0)
    threading.Event().wait()


def ignores_sigterm_and_shutdown(pipe: Pipe) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.get_ready()
    threading.Event().wait()


def answers_fast_without_end(pipe: Pipe) -> None:
    """Write to the first request until it is cancelled, and answer the others at once."""
    pipe.get_ready()
    first = pipe.submitted()
    commands: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()

    def read() -> None:
        while (message := pipe.receive()) is not None:
            commands.put(message)
        commands.put(None)

    threading.Thread(target=read, daemon=True).start()
    writing, chunk = True, Chunk(0, "x" * 1_000, 1)
    while True:
        if writing and commands.empty():
            pipe.events((first, chunk))
            continue
        match commands.get():
            case Submit(request_id=request_id):
                pipe.events((request_id, Started(1)), (request_id, Chunk(0, "ok", 1)), (request_id, FINISHED))
            case Cancel():
                writing = False
            case _:
                return


def vectors_without_end(pipe: Pipe) -> None:
    """Answer a request for one vector with a thousand."""
    pipe.get_ready()
    submit = pipe.receive()
    assert isinstance(submit, Submit)
    pipe.events(*((submit.request_id, Pooled((0,), bytes(4))) for _ in range(1_000)))
    pipe.until_the_end()


def text_for_a_pooling_request(pipe: Pipe) -> None:
    pipe.get_ready()
    pipe.submitted()
    pipe.until_the_end()


def vectors_for_a_prompt(pipe: Pipe) -> None:
    pipe.get_ready()
    submit = pipe.receive()
    assert isinstance(submit, Submit)
    pipe.events((submit.request_id, PoolFinished(1)))
    pipe.until_the_end()


SCRIPTS: dict[str, Callable[[Pipe], None]] = {
    script.__name__: script
    for script in (
        answers_fast_without_end,
        batch_before_ready,
        closes_its_pipe_and_goes_on,
        exit_0_in_mid_stream,
        exit_1_while_loading,
        finished_twice,
        frame_of_four_gigabytes,
        garbage_frame,
        grandchild_holds_the_pipes,
        half_frame_then_exit,
        ignores_sigterm_and_shutdown,
        never_ready,
        print_instead_of_a_frame,
        ready_twice,
        refuse_to_load_and_stay,
        stderr_flood,
        stops_listening,
        text_for_a_pooling_request,
        unknown_request_id,
        vectors_for_a_prompt,
        vectors_without_end,
        well_behaved,
    )
}

if __name__ == "__main__":
    SCRIPTS[sys.argv[1]](Pipe())
