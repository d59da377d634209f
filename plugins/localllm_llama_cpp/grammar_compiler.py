"""Compiles grammars within limits of time and size, and makes the best of those that need not be kept strictly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

from llguidance import LLMatcher

from localllm import Constraint, InvalidRequestError, UnavailableError

from .grammar_text import GrammarText, assembled, grammar_texts, param_of, title_of
from .lark_text import SpecialToken

MAX_PARTS_BYTES = 512 * 1024  # of all parts of a constraint together
_STACK_BYTES = 64 * 1024 * 1024  # llguidance recurs over chains of rules; 8 MiB overflow at some 3,000
_STRAYS = 2  # compilations that went on when nobody waited any more

BuildMatcher = Callable[[str], LLMatcher]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A matcher at its beginning, never advanced: choices use copies. ``warnings`` say what it leaves out."""

    matcher: LLMatcher
    warnings: tuple[str, ...]
    source_bytes: int


class _TooSlowError(Exception):
    """A grammar takes longer to compile than anybody waits."""


class GrammarCompiler:
    """Compiles on threads of its own. ``special`` gives the id of a special token that an answer shows."""

    def __init__(self, build: BuildMatcher, special: SpecialToken, seconds: float) -> None:
        self._build = build
        self._special = special
        self._seconds = seconds
        self._compiling = threading.BoundedSemaphore(_STRAYS + 1)

    def compile(self, constraint: Constraint) -> Compiled:
        """Compile a constraint and its parts. Raises ``InvalidRequestError`` for what can't be honoured.

        Where all together are too large or too slow, schemas that are not strict are left out but for their types.
        """
        if _n_part_bytes(constraint, strict_only=True) > MAX_PARTS_BYTES:
            message = f"{title_of(constraint)} has schemas of more than {MAX_PARTS_BYTES} bytes; shorten them."
            raise InvalidRequestError(message, param=param_of(constraint))
        excess = "All together are too large." if _n_part_bytes(constraint) > MAX_PARTS_BYTES else ""
        slowness = f"takes more than {self._seconds:g} s to compile"
        try:
            try:
                return self._attempt(constraint, excess)
            except _TooSlowError:
                if all(part.strict for part in (constraint, *constraint.parts)):
                    raise
                return self._attempt(constraint, f"It {slowness}.")
        except _TooSlowError as error:
            message = f"{title_of(constraint)} {slowness}; make it simpler."
            raise InvalidRequestError(message, param=param_of(constraint)) from error

    def _attempt(self, constraint: Constraint, reason: str) -> Compiled:
        deadline = time.monotonic() + self._seconds
        attempt = _Attempt(lambda text: self._in_time(text, deadline), self._special, reason)
        if not constraint.parts:
            matcher, _, warnings = attempt.alone(constraint)
            return Compiled(matcher, warnings, len(constraint.source))
        matcher, warnings = attempt.framed(constraint)
        return Compiled(matcher, warnings, len(constraint.source) + _n_part_bytes(constraint))

    def _in_time(self, text: str, deadline: float) -> LLMatcher:
        """Build a matcher on a thread of its own, which has stack enough and can be left behind.

        The library lets the interpreter go on meanwhile, but can't be stopped.
        """
        if not self._compiling.acquire(timeout=self._seconds):
            message = "Grammars of other requests take too long to compile; try again later."
            raise UnavailableError(message)
        result: Future[LLMatcher] = Future()

        def run() -> None:
            try:
                result.set_result(self._build(text))
            except BaseException as error:  # noqa: BLE001  # a panic in the library is no Exception; it goes to the caller
                result.set_exception(error)
            finally:
                self._compiling.release()

        _start_thread(run)
        try:
            return result.result(max(0.0, deadline - time.monotonic()))
        except FutureTimeoutError as error:
            raise _TooSlowError from error


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt to compile a constraint. With a ``reason``, schemas that are not strict are left out for it."""

    build: BuildMatcher
    special: SpecialToken
    reason: str

    def alone(self, constraint: Constraint) -> tuple[LLMatcher, str, tuple[str, ...]]:
        """Return the matcher of a constraint without its parts, the text that it is made from, and warnings."""
        reason = self.reason
        for grammar in self._texts(constraint):
            matcher = self.build(grammar.text)
            if matcher.is_error():
                reason = reason or first_line(matcher.get_error())
                continue
            warnings = [f"{grammar.warning} {reason}".rstrip()] if grammar.warning else []
            warnings += (
                f"A part of the JSON schema is not enforced. {text}." for text in matcher.get_grammar_warnings()
            )
            title = f"{constraint.title}: " if constraint.title else ""
            return matcher, grammar.text, tuple(title + text for text in warnings)
        message = f"{title_of(constraint)} can't be honoured: {reason}"
        raise InvalidRequestError(message, param=param_of(constraint))

    def framed(self, constraint: Constraint) -> tuple[LLMatcher, tuple[str, ...]]:
        """Compile a frame and its parts at once, and each part by itself only where that does not go well."""
        (frame,) = self._texts(constraint)
        parts = [self._texts(part)[0] for part in constraint.parts]
        matcher = self.build(assembled(frame.text, [part.text for part in parts]))
        warnings: tuple[str, ...] = ()
        if matcher.is_error() or matcher.get_grammar_warnings() or any(part.warning for part in parts):
            alone = [self.alone(part) for part in constraint.parts]
            warnings = tuple(dict.fromkeys(text for _, _, texts in alone for text in texts))
            matcher = self.build(assembled(frame.text, [text for _, text, _ in alone]))
        if matcher.is_error():
            message = f"{title_of(constraint)} can't be honoured: {first_line(matcher.get_error())}"
            raise InvalidRequestError(message, param=param_of(constraint))
        return matcher, warnings

    def _texts(self, constraint: Constraint) -> list[GrammarText]:
        texts = list(grammar_texts(constraint, self.special))
        return texts[-1:] if self.reason else texts


def first_line(message: str) -> str:
    """Return a library's message as one line: what it says first, and what it calls the error."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    text = " ".join([*lines[:1], *errors])[:300]
    return text if text.endswith(".") else f"{text}."


def _n_part_bytes(constraint: Constraint, *, strict_only: bool = False) -> int:
    return sum(len(part.source) for part in constraint.parts if part.strict or not strict_only)


def _start_thread(run: Callable[[], None]) -> None:
    thread = threading.Thread(target=run, name="grammar", daemon=True)
    before = threading.stack_size(_STACK_BYTES)
    try:
        thread.start()
    finally:
        threading.stack_size(before)
