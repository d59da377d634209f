"""``python -P -m localllm.worker``: what the server starts for each loaded model. Not for use by hand."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import select
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, cast

from localllm.contract.backend import LoadedModel, LoadedPooler, WorkerFactory
from localllm.contract.errors import LocalLLMError, ModelLoadError, ProtocolError
from localllm.contract.wire import FromWorker, Hello, LoadFailed, Ready
from localllm.transport.codec import decode_to_worker, encode_from_worker
from localllm.transport.framing import ReadableStream, pack_frame, read_frame
from localllm.worker.discipline import discipline_of
from localllm.worker.inbox import Inbox
from localllm.worker.lifeline import claim_pipes, die_with_parent, limit_damage
from localllm.worker.outbox import Outbox
from localllm.worker.runtime import FILING_SECONDS, CommandReader, Runtime, end_process_by_error, start_thread

EXIT_LOAD_FAILED = 1
_USAGE = "localllm.worker is started by the localllm server, with frames on its pipes. Run 'localllm serve' instead.\n"


def main() -> None:
    """Load the model that the server names and serve it; ends the process."""
    if sys.stdin is None or sys.stdin.isatty():
        sys.stderr.write(_USAGE)
        sys.exit(os.EX_USAGE if sys.platform != "win32" else 64)
    frames_in, frames_out = claim_pipes()
    die_with_parent()
    limit_damage()
    faulthandler.enable()
    try:
        # Never closed: closing would wait for the thread that is reading it.
        _serve(os.fdopen(frames_in, "rb"), _writer(frames_out), _writable(frames_out))
    except BrokenPipeError:
        os._exit(0)  # the server has gone
    except BaseException:  # noqa: BLE001 - the process ends, with the reason on stderr
        end_process_by_error()
    os._exit(0)


def _serve(stream: ReadableStream, write: Callable[[bytes], None], is_writable: Callable[[], bool] | None) -> None:
    hello = _read_hello(stream)
    if hello is None:
        return
    inbox: Inbox[Any] = Inbox()
    outbox = Outbox(write, is_writable=is_writable)
    reader = CommandReader(stream, inbox, time.monotonic)
    start_thread("reader", reader.run)
    load = hello.load
    try:
        discipline = discipline_of(_load(hello), load.mode, load.model_id, time.monotonic, load.state_dir)
        discipline.self_test(load.model_id)
        discipline.preload(load.preload)
    except LocalLLMError as error:
        _send(write, LoadFailed(error.to_wire()))
        sys.stderr.flush()
        os._exit(EXIT_LOAD_FAILED)
    gc.collect()
    gc.freeze()  # what is loaded stays: collections while serving need not walk it each time
    runtime = Runtime(discipline, inbox, outbox)
    reader.serving.set()
    _send(write, Ready(discipline.info))
    start_thread("output", outbox.run)
    runtime.run()
    reader.leaving.set()
    late_at = time.monotonic() + FILING_SECONDS
    discipline.leave(lambda: time.monotonic() >= late_at)
    discipline.close()


def _read_hello(stream: ReadableStream) -> Hello | None:
    payload = read_frame(stream)
    if payload is None:
        return None
    message = decode_to_worker(payload)
    if not isinstance(message, Hello):
        text = f"The first message was a {type(message).__name__}, not Hello."
        raise ProtocolError(text)
    return message


def _load(hello: Hello) -> LoadedModel | LoadedPooler:
    """Import the factory and call it. Whatever it raises becomes a ``LocalLLMError``, with its traceback on stderr."""
    try:
        return _factory(hello.factory)(hello.load)
    except LocalLLMError:
        raise
    except Exception as error:
        traceback.print_exc()
        message = f"Loading model {hello.load.model_id!r} failed: {type(error).__name__}: {error}"
        raise ModelLoadError(message) from error


def _factory(name: str) -> WorkerFactory:
    module, _, function = name.partition(":")
    return cast(WorkerFactory, getattr(importlib.import_module(module), function))


def _send(write: Callable[[bytes], None], message: FromWorker) -> None:
    write(pack_frame(encode_from_worker(message)))


def _writer(descriptor: int) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    return write


def _writable(descriptor: int) -> Callable[[], bool] | None:
    """Return a question that never blocks: would a small write? None where pipes can't be polled (Windows)."""
    if not hasattr(select, "poll"):
        return None
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return lambda: any(happened & select.POLLOUT for _, happened in poll.poll(0))


if __name__ == "__main__":
    main()
