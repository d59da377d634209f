"""Faults that any fake model can be told to have, while loading and at work."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, cast

from localllm.contract.backend import LoadRequest
from localllm.contract.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class FaultSettings:
    """What a fake model can be told, whatever it fakes. Plain JSON; faults are off unless set.

    A step is what the engine evaluates at once, the self-test's included. Signals are given by name ("SIGSEGV"); as
    ``crash_signal``, "raise" raises an exception instead.
    """

    step_delay_seconds: float = 0.0
    load_delay_seconds: float = 0.0
    noise: str | None = None  # written to file descriptor 1 while loading and in each step, as native code might
    last_words: str | None = None  # written to stderr before a crash
    crash_after_steps: int | None = None
    crash_signal: str = "SIGSEGV"
    hang_after_steps: int | None = None
    hang_holds_gil: bool = False  # hang in native code that lets no other thread run
    fail_load: str | None = None  # raise ModelLoadError with this message
    crash_on_load: str | None = None  # a signal's name
    crash_unless_safe_mode: str | None = None  # a signal's name: as a miscompiled library does at its self-test

    @classmethod
    def read(cls, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Self:
        """Check the names and lay the settings over the defaults. Raises ``ModelLoadError`` for a name that is none."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(settings.keys() - known):
            raise ModelLoadError(f"A fake model has no setting {unknown[0]!r}; it has: {', '.join(sorted(known))}.")
        return cls(**{**defaults, **settings})

    def meet_load_faults(self, request: LoadRequest) -> None:
        """Do what was asked for while loading. Raises ``ModelLoadError`` where that was."""
        if self.noise is not None:
            os.write(1, self.noise.encode())
        if self.load_delay_seconds:
            threading.Event().wait(self.load_delay_seconds)
        if self.fail_load is not None:
            raise ModelLoadError(self.fail_load)
        if self.crash_on_load is not None:
            die(self.crash_on_load, self.last_words)
        if self.crash_unless_safe_mode is not None and not request.safe_mode:
            die(self.crash_unless_safe_mode, self.last_words)

    def step_faults(self) -> list[tuple[int, Callable[[], object]]]:
        """Return what is to happen in each step from a number on: (steps before, what to call)."""
        faults: list[tuple[int, Callable[[], object]]] = []
        noise, delay = self.noise, self.step_delay_seconds
        if noise is not None:
            faults.append((0, lambda: os.write(1, noise.encode())))
        if delay:
            faults.append((0, lambda: threading.Event().wait(delay)))
        if self.hang_after_steps is not None:
            faults.append((self.hang_after_steps, hang(holds_gil=self.hang_holds_gil)))
        if self.crash_after_steps is not None:
            faults.append((self.crash_after_steps, lambda: die(self.crash_signal, self.last_words)))
        return faults


def hang(*, holds_gil: bool) -> Callable[[], object]:
    """Return a call that never returns."""
    if not holds_gil:
        return threading.Event().wait
    return cast("Callable[[], object]", ctypes.PyDLL(None).pause)  # PyDLL, unlike CDLL, keeps the GIL


def die(how: str, last_words: str | None) -> None:
    """End the process by a signal, or raise; with ``last_words`` on stderr."""
    if last_words is not None:
        sys.stderr.write(last_words + "\n")
        sys.stderr.flush()
    if how == "raise":
        raise RuntimeError("the fake decoder was told to raise")
    os.kill(os.getpid(), signal.Signals[how])
    threading.Event().wait()  # the signal may take a moment to arrive
