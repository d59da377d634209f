"""What signals mean to the server: end, end now, read the configuration again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from localllm.server.drain import Drain

_TERMINAL = "/dev/tty"


@contextmanager
def handle_signals(stop: asyncio.Event, drain: Drain, reload: Callable[[], None] | None = None) -> Iterator[None]:
    """First SIGINT or SIGTERM: drain. Second: hurry. After that the default action is back, for whoever insists.

    SIGHUP calls ``reload``. But when it comes because the terminal has gone, it ends a server that was started there,
    as it would have without us; under nohup, which asks for SIGHUP to be ignored, it never does.
    """
    loop = asyncio.get_running_loop()
    ends = [signal.SIGINT, signal.SIGTERM]

    def end() -> None:
        if stop.is_set():
            drain.hurry()
            for number in ends:
                signal.signal(number, signal.SIG_DFL)
        stop.set()

    actions: dict[signal.Signals, Callable[[], None]] = dict.fromkeys(ends, end)
    if reload is not None and hasattr(signal, "SIGHUP"):  # Windows has none
        ends_with_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()
        again = reload

        def hang_up() -> None:
            if ends_with_terminal and not _has_terminal():
                end()
            else:
                again()

        actions[signal.SIGHUP] = hang_up

    def from_any_thread(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(actions[signal.Signals(number)])

    before = {number: signal.signal(number, from_any_thread) for number in actions}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _has_terminal() -> bool:
    """Say whether the process has a controlling terminal; one that hung up can't be opened any more."""
    try:
        os.close(os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
