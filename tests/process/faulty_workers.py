"""Workers that follow a script instead of the rules: ``python faulty_workers.py SCRIPT``, named by the fault.

A script gets the two ends of the pipe. It says Hello as a real worker does, unless that is its fault.
"""

from __future__ import annotations

import mmap
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from localllm.contract.errors import ModelFileError
from localllm.contract.generation import Chunk, Finished, GenerateRequest, Started, Timings, Usage
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

CRASH_SEED = 13
"""A request with this seed kills a worker that ``lives_as_the_settings_say``."""

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


def works_before_it_is_asked(pipe: Pipe) -> None:
    """It is ready and has preloaded something in one breath."""
    assert isinstance(pipe.receive(), Hello)
    said = (Ready(ModelInfo(128, 258)), Batch((), prefilled_tokens=5), Batch((), prefilled_tokens=2))
    pipe.raw(b"".join(pack_frame(encode_from_worker(message)) for message in said))
    while isinstance(message := pipe.receive(), Submit):
        pipe.events((message.request_id, Started(1)), (message.request_id, FINISHED))


def nonsense_in_one_breath_with_ready(pipe: Pipe) -> None:
    assert isinstance(pipe.receive(), Hello)
    said = (Ready(ModelInfo(128, 258)), Batch((("r999", FINISHED),)))
    pipe.raw(b"".join(pack_frame(encode_from_worker(message)) for message in said))
    pipe.until_the_end()


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


def reads_a_mapped_file(pipe: Pipe) -> None:
    """Map the model's file, and read the whole of it for each request, as evaluating a token reads all weights."""
    hello = pipe.receive()
    assert isinstance(hello, Hello)
    assert hello.load.path is not None
    try:
        with Path(hello.load.path).open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelFileError(f"{hello.load.path} is no GGUF file.")
            weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        pipe.send(LoadFailed(ModelFileError(f"{hello.load.path}: {error.strerror}.").to_wire()))
        return
    except ModelFileError as error:
        pipe.send(LoadFailed(error.to_wire()))
        return
    pipe.send(Ready(ModelInfo(128, 258)))
    while isinstance(message := pipe.receive(), Submit):
        text = weights[-8:].decode()
        pipe.events((message.request_id, Started(1)), (message.request_id, Chunk(0, text, 1)))
        pipe.events((message.request_id, FINISHED))


def has_too_little_memory_to_load(pipe: Pipe) -> None:
    pipe.receive()
    _take_more_than_there_is()


def has_too_little_memory_to_answer(pipe: Pipe) -> None:
    pipe.get_ready()
    pipe.submitted()
    _take_more_than_there_is()


def _take_more_than_there_is() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (512 * 1024 * 1024,) * 2)
    bytearray(1024 * 1024 * 1024)


def lives_as_the_settings_say(pipe: Pipe) -> None:
    """For storms: load slowly, or not at all; write one piece after the other to all requests; die when asked to."""
    hello = pipe.receive()
    assert isinstance(hello, Hello)
    threading.Event().wait(hello.load.settings.get("load_seconds", 0.0))
    if hello.load.settings.get("fails"):
        pipe.send(LoadFailed({"code": "model_load_failed", "message": "told to fail"}))
        return
    pipe.send(Ready(ModelInfo(128, 258)))
    commands: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()

    def read() -> None:
        while (message := pipe.receive()) is not None:
            commands.put(message)
        commands.put(None)

    threading.Thread(target=read, daemon=True).start()
    pieces_left: dict[str, int] = {}
    while True:
        try:
            message = commands.get(timeout=0.005 if pieces_left else None)
        except queue.Empty:
            _write_one_piece_each(pipe, pieces_left)
            continue
        match message:
            case Submit(request_id=request_id, request=GenerateRequest(sampling=sampling)):
                if sampling.seed == CRASH_SEED:
                    os.kill(os.getpid(), signal.SIGKILL)
                pieces_left[request_id] = sampling.max_tokens or 1
                pipe.events((request_id, Started(1)))
            case Cancel(request_id=request_id):
                pieces_left.pop(request_id, None)
            case _:
                return


def _write_one_piece_each(pipe: Pipe, pieces_left: dict[str, int]) -> None:
    for request_id in list(pieces_left):
        pipe.events((request_id, Chunk(0, "x", 1)))
        pieces_left[request_id] -= 1
        if not pieces_left[request_id]:
            del pieces_left[request_id]
            pipe.events((request_id, FINISHED))


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
        has_too_little_memory_to_answer,
        has_too_little_memory_to_load,
        ignores_sigterm_and_shutdown,
        lives_as_the_settings_say,
        never_ready,
        nonsense_in_one_breath_with_ready,
        print_instead_of_a_frame,
        reads_a_mapped_file,
        ready_twice,
        refuse_to_load_and_stay,
        stderr_flood,
        stops_listening,
        text_for_a_pooling_request,
        unknown_request_id,
        vectors_for_a_prompt,
        vectors_without_end,
        well_behaved,
        works_before_it_is_asked,
    )
}

if __name__ == "__main__":
    SCRIPTS[sys.argv[1]](Pipe())
    sys.stdout.flush()
    os._exit(0)  # an orderly end would wait a second for the thread that is still reading stdin, and then abort
