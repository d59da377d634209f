"""Fake models for tests, loadable by name in a worker: ``localllm.testing.decoders:load_fake`` and its faulty sisters.

All factories take the keys of :class:`FakeSettings` as the model's settings, and differ in their defaults only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

from localllm.contract.backend import LoadRequest
from localllm.contract.decoder import Capabilities, Decoder, KvLayout, PromptRenderer, Tokenizer
from localllm.contract.errors import ModelLoadError
from localllm.contract.model import ModelInfo
from localllm.testing.byte_text import N_VOCAB, ByteTokenizer, PlainRenderer
from localllm.testing.fake_decoder import (
    END_TOKEN,
    CrashingDecoder,
    EchoDecoder,
    FakeDecoder,
    SlowDecoder,
    WrappedDecoder,
)
from localllm.testing.fake_memory import ContractViolation, FakeMemory

__all__ = [
    "END_TOKEN",
    "ByteTokenizer",
    "ContractViolation",
    "CrashingDecoder",
    "EchoDecoder",
    "FakeDecoder",
    "FakeMemory",
    "FakeModel",
    "FakeSettings",
    "PlainRenderer",
    "SlowDecoder",
    "WrappedDecoder",
    "load_crashing",
    "load_echo",
    "load_fake",
    "load_hanging",
    "load_slow",
]


@dataclass(frozen=True, slots=True)
class FakeSettings:
    """What a fake model can be told. Plain JSON; faults are off unless set.

    Signals are given by name ("SIGSEGV"); as ``crash_signal``, "raise" raises an exception instead.
    """

    context_length: int = 512
    n_cells: int = 4096
    n_seq_max: int = 8
    n_batch: int = 64
    parallel: int = 4
    layout: KvLayout = "unified"
    can_truncate: bool = True
    can_copy: bool = True
    copy_cost_tokens: int = 0
    n_outputs_max: int = 256
    step_seconds: float = 0.2
    end_one_in: int = 0  # one in so many tokens ends the answer; 0: it goes on to its limit
    text: str | None = None  # what an echo answers in place of the prompt
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

    @staticmethod
    def read(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> FakeSettings:
        """Check the names and lay the settings over the defaults."""
        known = {field.name for field in fields(FakeSettings)}
        if unknown := sorted(settings.keys() - known):
            raise ModelLoadError(f"A fake model has no setting {unknown[0]!r}; it has: {', '.join(sorted(known))}.")
        return FakeSettings(**{**defaults, **settings})

    def capabilities(self) -> Capabilities:
        """Return the memory that these settings describe."""
        names = {field.name for field in fields(Capabilities)}
        return Capabilities(**{field.name: getattr(self, field.name) for field in fields(self) if field.name in names})


@dataclass(frozen=True, slots=True)
class FakeModel:
    """A loaded model without a model."""

    info: ModelInfo
    decoder: Decoder
    tokenizer: Tokenizer
    renderer: PromptRenderer | None

    def close(self) -> None:
        """Nothing to free."""


def load_fake(request: LoadRequest) -> FakeModel:
    """Load a model that writes what a hash of all tokens says."""
    settings = _prepare(request, {})
    return _model(settings, FakeDecoder(settings.capabilities(), end_one_in=settings.end_one_in))


def load_echo(request: LoadRequest) -> FakeModel:
    """Load a model that answers with its prompt, or with the setting ``text``."""
    settings = _prepare(request, {})
    answer = None if settings.text is None else tuple(settings.text.encode())
    return _model(settings, EchoDecoder(settings.capabilities(), answer=answer))


def load_slow(request: LoadRequest) -> FakeModel:
    """Load a fake that takes 20 ms for a step."""
    return _load_faulty(request, {"step_delay_seconds": 0.02})


def load_crashing(request: LoadRequest) -> FakeModel:
    """Load a fake that dies by SIGSEGV in its fourth step."""
    return _load_faulty(request, {"crash_after_steps": 3})


def load_hanging(request: LoadRequest) -> FakeModel:
    """Load a fake that never returns from its fourth step."""
    return _load_faulty(request, {"hang_after_steps": 3})


def _load_faulty(request: LoadRequest, defaults: Mapping[str, Any]) -> FakeModel:
    settings = _prepare(request, defaults)
    return _model(settings, FakeDecoder(settings.capabilities(), end_one_in=settings.end_one_in))


def _prepare(request: LoadRequest, defaults: Mapping[str, Any]) -> FakeSettings:
    """Read the settings, and meet the end that they have in store for loading."""
    settings = FakeSettings.read(request.settings, defaults)
    if settings.noise is not None:
        os.write(1, settings.noise.encode())
    if settings.load_delay_seconds:
        threading.Event().wait(settings.load_delay_seconds)
    if settings.fail_load is not None:
        raise ModelLoadError(settings.fail_load)
    if settings.crash_on_load is not None:
        _die(settings.crash_on_load, settings.last_words)
    if settings.crash_unless_safe_mode is not None and not request.safe_mode:
        _die(settings.crash_unless_safe_mode, settings.last_words)
    return settings


def _model(settings: FakeSettings, decoder: Decoder) -> FakeModel:
    """Put the faults that are asked for around a decoder."""
    noise, delay = settings.noise, settings.step_delay_seconds
    if noise is not None:
        decoder = SlowDecoder(decoder, lambda: os.write(1, noise.encode()))
    if delay:
        decoder = SlowDecoder(decoder, lambda: threading.Event().wait(delay))
    if settings.hang_after_steps is not None:
        decoder = CrashingDecoder(decoder, settings.hang_after_steps, _hang(settings.hang_holds_gil))
    if settings.crash_after_steps is not None:
        crash_signal, last_words = settings.crash_signal, settings.last_words
        decoder = CrashingDecoder(decoder, settings.crash_after_steps, lambda: _die(crash_signal, last_words))
    info = ModelInfo(settings.context_length, N_VOCAB, description="fake", has_chat_template=True)
    return FakeModel(info, decoder, ByteTokenizer(), PlainRenderer())


def _hang(holds_gil: bool) -> Callable[[], object]:
    if not holds_gil:
        return threading.Event().wait
    return cast("Callable[[], object]", ctypes.PyDLL(None).pause)  # PyDLL, unlike CDLL, keeps the GIL


def _die(how: str, last_words: str | None) -> None:
    if last_words is not None:
        sys.stderr.write(last_words + "\n")
        sys.stderr.flush()
    if how == "raise":
        raise RuntimeError("the fake decoder was told to raise")
    os.kill(os.getpid(), signal.Signals[how])
    threading.Event().wait()  # the signal may take a moment to arrive
