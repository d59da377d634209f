"""Compiles grammars, keeps those that were used lately, and masks the tokens that they do not allow next."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from localllm import Constraint

from .grammar_compiler import BuildMatcher, Compiled, GrammarCompiler, first_line
from .grammar_tokenizer import GrammarVocabulary
from .lark_text import SpecialToken
from .tokenizer import LlamaTokenizer

COMPILE_SECONDS = 5.0
CACHED_GRAMMARS = 64
CACHED_SOURCE_BYTES = 1024 * 1024  # a compiled grammar may take 200 times its source
MASK_THREADS = 4

LIMITS = LLParserLimits(
    max_lexer_states=50_000,  # of some 2 kB each; 250,000 unless told
    step_max_items=200_000,  # of some 0.05 us each: grammars of single code points need many
    verbose_errors=False,  # or messages would hold the request's own text
)

_log = logging.getLogger(__name__)

Ids = NDArray[np.intp]


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
            _log.warning("a grammar failed, so that its answer ends early: %s", first_line(self.matcher.get_error()))


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


class Grammars:
    """The grammars of one model. ``compile`` runs on the intake thread, ``begin`` on the step thread.

    ``tokenizer`` is the whole one, or one that is built when the first grammar is.
    """

    def __init__(
        self,
        tokenizer: LLTokenizer | GrammarVocabulary,
        texts: LlamaTokenizer,
        *,
        build: BuildMatcher | None = None,
        compile_seconds: float = COMPILE_SECONDS,
    ) -> None:
        self.masks = Masks(texts.n_vocab, (tokenizer.vocab_size + 31) // 32)
        self.ends = frozenset(tokenizer.eos_tokens)
        self._whole = tokenizer.build if isinstance(tokenizer, GrammarVocabulary) else lambda: tokenizer
        self._build = build or (lambda text: LLMatcher(self._whole(), text, limits=LIMITS, log_level=0))
        self._special: SpecialToken = lambda text: _special(tokenizer, texts, text)
        self._compiler = GrammarCompiler(
            lambda text: self._build(text), lambda text: _visible(texts, text, self._special(text)), compile_seconds
        )
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, Compiled] = OrderedDict()
        self._cached_bytes = 0

    def compile(self, constraint: Constraint) -> tuple[str, ...]:
        """Compile and keep a constraint; return warnings. Raises ``InvalidRequestError`` for what can't be honoured."""
        return self._compiled(constraint).warnings

    def begin(self, constraint: Constraint) -> GrammarState:
        """Return a state at the beginning of a grammar; compiles it only where it was dropped again in between."""
        return GrammarState(self._compiled(constraint).matcher.deep_copy())

    def special_token(self, text: str) -> int | None:
        """Return the special token (control, or visible like ``<tool_call>`` in many files) that is spelled so."""
        return self._special(text)

    def close(self) -> None:
        """Let go of what was compiled, and so of the vocabulary, once no choice has a state any more."""
        with self._lock:
            self._cache.clear()
        self._build = _closed
        self._whole = _no_tokenizer
        self._special = _no_special

    def _compiled(self, constraint: Constraint) -> Compiled:
        key = _key(constraint)
        with self._lock:
            compiled = self._cache.get(key)
            if compiled is not None:
                self._cache.move_to_end(key)
                return compiled
        self._whole()  # not within the time that a grammar has
        compiled = self._compiler.compile(constraint)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = compiled
                self._cached_bytes += compiled.source_bytes
            while len(self._cache) > CACHED_GRAMMARS or (
                self._cached_bytes > CACHED_SOURCE_BYTES and len(self._cache) > 1
            ):
                self._cached_bytes -= self._cache.popitem(last=False)[1].source_bytes
        return compiled


def _special(tokenizer: LLTokenizer | GrammarVocabulary, texts: LlamaTokenizer, text: str) -> int | None:
    """Return the token that ``text`` is as a whole, if llguidance takes it for no text."""
    tokens = texts.encode(text, add_special=False, parse_special=True) if text else []
    return tokens[0] if len(tokens) == 1 and tokenizer.is_special_token(tokens[0]) else None


def _visible(texts: LlamaTokenizer, text: str, token: int | None) -> int | None:
    """Return a special token if raw answers show it; control tokens they don't."""
    return token if token is not None and texts.piece(token) == text.encode() else None


def _no_special(_: str) -> None:
    return None


def _closed(_: str) -> LLMatcher:
    message = "the model is closed"
    raise RuntimeError(message)


def _no_tokenizer() -> LLTokenizer:
    message = "the model is closed"
    raise RuntimeError(message)


def _key(constraint: Constraint) -> bytes:
    digest = hashlib.sha256(f"{constraint.kind} {constraint.strict} {len(constraint.parts)} ".encode())
    digest.update(hashlib.sha256(constraint.source.encode(errors="surrogatepass")).digest())
    for part in constraint.parts:
        digest.update(_key(part))
    return digest.digest()
