"""Compiles grammars, keeps those that were used lately, and masks the tokens that they do not allow next."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from localllm import Constraint, InvalidRequestError, UnavailableError

from .grammar_text import GrammarText, SpellToken, grammar_texts, param_of
from .tokenizer import LlamaTokenizer

COMPILE_SECONDS = 5.0
CACHED_GRAMMARS = 64
CACHED_SOURCE_BYTES = 1024 * 1024  # a compiled grammar may take 200 times its source
MASK_THREADS = 4
_STACK_BYTES = 64 * 1024 * 1024  # llguidance recurs over chains of rules; 8 MiB overflow at some 3,000
_STRAYS = 2  # compilations that went on when nobody waited any more

LIMITS = LLParserLimits(
    max_lexer_states=50_000,  # of some 2 kB each; 250,000 unless told
    step_max_items=200_000,  # of some 0.05 us each: grammars of single code points need many
    verbose_errors=False,  # or messages would hold the request's own text
)

_log = logging.getLogger(__name__)

Ids = NDArray[np.intp]
BuildMatcher = Callable[[str], LLMatcher]


class GrammarState:
    """Where one choice stands in its grammar. Used by the step thread only."""

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher

    @property
    def is_over(self) -> bool:
        """Whether nothing may follow: the grammar is complete, or it failed beyond one of its limits."""
        return self.matcher.is_stopped()

    def allows(self, token: int) -> bool:
        """Whether ``token`` may come next. Takes some 2 us; a mask takes from 15 us to milliseconds."""
        return self.matcher.validate_tokens([token]) == 1

    def take(self, token: int) -> None:
        """Go on by a token that is allowed."""
        self.matcher.consume_token(token)
        if self.matcher.is_error():
            _log.warning("a grammar failed, so that its answer ends early: %s", _first_line(self.matcher.get_error()))


class Masks:
    """Finds the tokens that grammars allow next, several grammars at a time. Used by the step thread only."""

    def __init__(self, n_vocab: int, n_words: int) -> None:
        self._n_vocab = n_vocab
        self._bits = np.zeros((0, n_words), dtype=np.int32)
        self._executor: LLExecutor | None = None

    def fill(self, states: Sequence[GrammarState]) -> None:
        """Compute what each of ``states`` allows; :meth:`allowed` gives it out."""
        if len(states) > len(self._bits):
            self._bits = np.zeros((len(states), self._bits.shape[1]), dtype=np.int32)
        if len(states) == 1:
            fill_next_token_bitmask(states[0].matcher, self._bits, 0)
            return
        if self._executor is None:
            self._executor = LLExecutor(MASK_THREADS)
        rows = [(state.matcher, row) for row, state in enumerate(states)]
        fill_next_token_bitmask_par(self._executor, rows, self._bits)

    def allowed(self, row: int) -> Ids:
        """Return the ids, ascending, that the grammar in place ``row`` of the last :meth:`fill` allows."""
        bits = np.unpackbits(self._bits[row].view(np.uint8), count=self._n_vocab, bitorder="little")
        return bits.view(np.bool_).nonzero()[0]


@dataclass(frozen=True, slots=True)
class _Compiled:
    matcher: LLMatcher  # never advanced: choices use copies
    warnings: tuple[str, ...]
    source_bytes: int


class Grammars:
    """The grammars of one model. ``compile`` runs on the intake thread, ``begin`` on the step thread."""

    def __init__(
        self,
        tokenizer: LLTokenizer,
        texts: LlamaTokenizer,
        *,
        build: BuildMatcher | None = None,
        compile_seconds: float = COMPILE_SECONDS,
    ) -> None:
        self.masks = Masks(texts.n_vocab, (tokenizer.vocab_size + 31) // 32)
        self.ends = frozenset(tokenizer.eos_tokens)
        self._build = build or (lambda text: LLMatcher(tokenizer, text, limits=LIMITS, log_level=0))
        self._special: SpellToken = lambda text: _visible_special(tokenizer, texts, text)
        self._compile_seconds = compile_seconds
        self._compiling = threading.BoundedSemaphore(_STRAYS + 1)
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, _Compiled] = OrderedDict()
        self._cached_bytes = 0

    def compile(self, constraint: Constraint) -> tuple[str, ...]:
        """Compile and keep a constraint; return warnings. Raises ``InvalidRequestError`` for what can't be honoured."""
        return self._compiled(constraint).warnings

    def begin(self, constraint: Constraint) -> GrammarState:
        """Return a state at the beginning of a grammar; compiles it only where it was dropped again in between."""
        return GrammarState(self._compiled(constraint).matcher.deep_copy())

    def close(self) -> None:
        """Let go of what was compiled, and so of the vocabulary, once no choice has a state any more."""
        with self._lock:
            self._cache.clear()
        self._build = _closed
        self._special = _no_special

    def _compiled(self, constraint: Constraint) -> _Compiled:
        key = _key(constraint)
        with self._lock:
            compiled = self._cache.get(key)
            if compiled is not None:
                self._cache.move_to_end(key)
                return compiled
        compiled = self._compile(constraint)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = compiled
                self._cached_bytes += compiled.source_bytes
            while len(self._cache) > CACHED_GRAMMARS or (
                self._cached_bytes > CACHED_SOURCE_BYTES and len(self._cache) > 1
            ):
                self._cached_bytes -= self._cache.popitem(last=False)[1].source_bytes
        return compiled

    def _compile(self, constraint: Constraint) -> _Compiled:
        reason = ""
        warnings: list[str] = []
        for grammar in grammar_texts(constraint, self._special):
            matcher = self._in_time(constraint, grammar)
            if matcher.is_error():
                reason = reason or _first_line(matcher.get_error())
                continue
            if grammar.warning:
                warnings.append(f"{grammar.warning} {reason}".rstrip())
            warnings += (
                f"A part of the JSON schema is not enforced. {text}." for text in matcher.get_grammar_warnings()
            )
            return _Compiled(matcher, tuple(warnings), len(constraint.source))
        message = f"The {constraint.kind} can't be honoured: {reason}"
        raise InvalidRequestError(message, param=param_of(constraint))

    def _in_time(self, constraint: Constraint, grammar: GrammarText) -> LLMatcher:
        """Build a matcher on a thread of its own, which has stack enough and can be left behind.

        The library lets the interpreter go on meanwhile, but can't be stopped.
        """
        if not self._compiling.acquire(timeout=self._compile_seconds):
            message = "Grammars of other requests take too long to compile; try again later."
            raise UnavailableError(message)
        result: Future[LLMatcher] = Future()

        def run() -> None:
            try:
                result.set_result(self._build(grammar.text))
            except BaseException as error:  # noqa: BLE001  # a panic in the library is no Exception; it goes to the caller
                result.set_exception(error)
            finally:
                self._compiling.release()

        _start_thread(run)
        try:
            return result.result(self._compile_seconds)
        except FutureTimeoutError as error:
            message = f"The {constraint.kind} takes more than {self._compile_seconds:g} s to compile; make it simpler."
            raise InvalidRequestError(message, param=param_of(constraint)) from error


def _visible_special(tokenizer: LLTokenizer, texts: LlamaTokenizer, text: str) -> int | None:
    """Return the token that ``text`` is as a whole, if llguidance takes it for no text though an answer shows it.

    Such are markers like ``<tool_call>`` in many files. Control tokens are special too, but never shown.
    """
    tokens = texts.encode(text, add_special=False, parse_special=True) if text else []
    if len(tokens) == 1 and tokenizer.is_special_token(tokens[0]) and texts.piece(tokens[0]) == text.encode():
        return tokens[0]
    return None


def _no_special(_: str) -> None:
    return None


def _closed(_: str) -> LLMatcher:
    message = "the model is closed"
    raise RuntimeError(message)


def _start_thread(run: Callable[[], None]) -> None:
    thread = threading.Thread(target=run, name="grammar", daemon=True)
    before = threading.stack_size(_STACK_BYTES)
    try:
        thread.start()
    finally:
        threading.stack_size(before)


def _key(constraint: Constraint) -> bytes:
    head = f"{constraint.kind} {constraint.strict} ".encode()
    return hashlib.sha256(head + constraint.source.encode(errors="surrogatepass")).digest()


def _first_line(message: str) -> str:
    """Return a library's message as one line: what it says first, and what it calls the error."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    text = " ".join([*lines[:1], *errors])[:300]
    return text if text.endswith(".") else f"{text}."
