"""What ties a worker to its server: the two pipes, and dying when the server dies."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

from localllm.transport.launch import PARENT_PID_VARIABLE

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_NO_NEW_PRIVS = 38
_OOM_SCORE_STEP = 300


def claim_pipes() -> tuple[int, int]:
    """Return private descriptors (frames in, frames out), and leave nothing of them on 0 and 1.

    Native code prints to fd 1 whatever it likes: that goes to stderr from now on, so that it can't corrupt a frame.
    Both descriptors are closed in any child that native code starts, and so is whatever else the server had open:
    uvloop leaves second copies of all three pipes behind.
    """
    _close_inherited()
    frames_in, frames_out = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return frames_in, frames_out


def die_with_parent(environ: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Arrange to be killed when the server goes, and leave at once if it has gone already.

    The end of stdin says the same, but a native call that holds the GIL keeps the thread that reads it waiting, for
    seconds at worst; the kernel's signal does not wait. (It is sent when the *thread* that started this process ends:
    servers start workers from the thread of their event loop.) Linux only; elsewhere stdin alone does it.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = environ.get(PARENT_PID_VARIABLE)
    if parent is not None and os.getppid() != int(parent):
        os._exit(0)


def limit_damage() -> None:
    """Leave Ctrl-C to the server, write no core file, gain no privilege, and be first to go when memory runs out."""
    # The terminal sends SIGINT to the whole process group; the server then drains, and needs its workers for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        with contextlib.suppress(OSError):  # a read-only /proc: the kernel then chooses by size alone
            score = Path("/proc/self/oom_score_adj")
            score.write_text(str(min(1000, int(score.read_text()) + _OOM_SCORE_STEP)))


def _close_inherited() -> None:
    folder = Path("/dev/fd")  # Linux and macOS; Windows passes nothing on unasked
    inherited = [int(entry.name) for entry in folder.iterdir()] if folder.is_dir() else []
    for descriptor in inherited:
        if descriptor > 2:
            with contextlib.suppress(OSError):  # the one that the folder was read through
                os.close(descriptor)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    if libc.prctl(option, *arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}) failed: {os.strerror(number)}")
