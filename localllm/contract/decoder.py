"""The seam between scheduling and evaluation: the scheduler says which tokens at which positions, the decoder how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from localllm.contract.chat_format import RenderedPrompt
from localllm.contract.generation import ChatPrompt, Constraint, SamplingParams

KvLayout = Literal["unified", "streams"]
State = bytes | bytearray | memoryview
"""What a sequence of the KV cache holds, taken out of it: the decoder's own format, which nobody else reads."""


class SequenceKey(NamedTuple):
    """One answer being written: a request and the index of its choice."""

    request_id: str
    choice: int


@dataclass(frozen=True, slots=True)
class StateSaving:
    """How much of what falls out of the KV cache may be kept elsewhere, by a :class:`SavingDecoder`.

    The state of n tokens takes ``bytes_per_sequence + n * bytes_per_token``. All that is kept in memory takes no more
    than ``ram_bytes``, and all files together, those of other models too, no more than ``disk_bytes`` (0: none are
    written). Fewer than ``worthwhile_tokens`` are evaluated about as fast as they are put back. ``identity`` names
    everything that a state depends on beside its tokens and its group: the model's file, the settings that change what
    is computed, the build. States of another identity are never looked at.
    """

    ram_bytes: int
    bytes_per_token: int
    bytes_per_sequence: int = 0
    disk_bytes: int = 0
    worthwhile_tokens: int = 32
    identity: str = ""

    def n_bytes(self, n_tokens: int) -> int:
        """Return the size of a state."""
        return self.bytes_per_sequence + n_tokens * self.bytes_per_token


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the loaded model's memory can do. The scheduler keeps to it; a decoder may rely on that.

    Two layouts. ``unified``: ``n_cells`` cells are one pool, a copied prefix shares its source's cells, and a copy may
    be partial. ``streams``: each of the ``n_seq_max`` sequences owns ``n_cells // n_seq_max`` cells, and a copy moves
    the whole stream, so that a partial copy is a whole one followed by a truncation.
    """

    context_length: int  # tokens that one request may use, prompt and answer together
    n_cells: int  # KV cells in all
    n_seq_max: int  # sequence ids are 0 .. n_seq_max - 1
    n_batch: int  # tokens in one submitted plan, at most
    parallel: int = 4  # answers that are being written at the same time, at most; other sequences keep prefixes
    layout: KvLayout = "unified"
    can_truncate: bool = True  # False: only whole sequences can be removed (recurrent, sliding-window memories)
    can_copy: bool = True
    copy_cost_tokens: int = 0  # copy only where the match is longer than this: prefilling so many costs as much
    n_outputs_max: int = 256  # rows with logits in one plan, at most
    step_seconds: float = 0.2  # while answers are written, a step takes only as much of a prompt as keeps it this short
    can_score: bool = False  # the decoder is a :class:`ScoringDecoder`, so that plans may have ``targets``
    saving: StateSaving | None = None  # given where the decoder is a :class:`SavingDecoder`


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget everything that sequence ``seq`` holds. Allowed for every memory."""

    seq: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """Keep only positions below ``length`` (> 0) of sequence ``seq``. Needs ``can_truncate`` unless nothing is cut."""

    seq: int
    length: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Make empty sequence ``target`` hold the first ``length`` positions of ``source``. Needs ``can_copy``.

    Where ``can_truncate`` is False, ``length`` is all that the source holds.
    """

    source: int
    target: int
    length: int


Op = Clear | Truncate | Copy


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens to evaluate for one sequence, at positions ``start`` .. ``start + len(tokens) - 1``.

    ``start`` is the number of positions that the sequence holds. ``sample`` lists the choices that draw their next
    token from the last row (several when the choices of one request share a prefill; none for an unfinished prompt).

    ``targets`` are known tokens whose log-probabilities are wanted, with those of the ``n_top`` most likely: the first
    of them follows the first of ``tokens``, and so on, so that they are those tokens over again, one place further on.
    Each costs a row, from the slice's first token on; a slice that samples has fewer of them than tokens. Only where
    ``Capabilities.can_score`` is set.
    """

    seq: int
    start: int
    tokens: tuple[int, ...]
    sample: tuple[SequenceKey, ...] = ()
    targets: tuple[int, ...] = ()
    n_top: int = 0

    @property
    def n_rows(self) -> int:
        """Rows with logits that it asks for: one for each target, and the last one where choices draw from it."""
        return len(self.targets) + bool(self.sample)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: memory operations in order, then one batch. No sequence has two slices.

    All slices are of requests of one ``group``: they are computed with the same adapters (``contract.adapters``), and
    so was all that their sequences hold.
    """

    ops: tuple[Op, ...] = ()
    slices: tuple[Slice, ...] = ()
    group: str = ""

    @property
    def n_tokens(self) -> int:
        """Tokens in the batch."""
        return sum(len(part.tokens) for part in self.slices)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A drawn token. ``top`` holds (token id, natural log-probability), most likely first, when asked for."""

    token: int
    is_end: bool = False  # the model says that its answer is complete; the token is not part of the text
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """How likely a known token was. ``top`` holds (token id, natural log-probability), most likely first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Decoder(Protocol):
    """Evaluates plans and draws tokens. All methods are called from the worker's step thread."""

    @property
    def capabilities(self) -> Capabilities:
        """Fixed after loading."""
        ...

    def open(self, request_id: str, sampling: SamplingParams, prompt: Sequence[int]) -> None:
        """Create the samplers of a request (one per choice). ``prompt`` feeds the repetition penalties."""
        ...

    def submit(self, plan: Plan) -> None:
        """Apply the operations and start the batch; may return before the device has finished."""
        ...

    def collect(self) -> Mapping[SequenceKey, Sequence[Sampled]]:
        """Wait for the submitted plan and return what each key of its slices drew, in order (one or more tokens)."""
        ...

    def force(self, key: SequenceKey, tokens: Sequence[int]) -> None:
        """Take tokens that the engine itself writes into an answer, as if the choice had drawn them.

        Called after ``collect``, for a choice that goes on: they follow what it drew. Samplers that remember tokens
        (penalties, a constraint) take them in; a constraint that does not allow them is let go, from then on.
        """
        ...

    def close(self, request_id: str) -> None:
        """Free the samplers of a request. Called once for each ``open``."""
        ...


class ScoringDecoder(Decoder, Protocol):
    """A decoder that also tells how likely the tokens of a prompt are (``Capabilities.can_score``)."""

    def scores(self) -> Mapping[int, Sequence[Scored]]:
        """Return, by sequence id, what each target of the plan that was just collected was worth, in order.

        Called after ``collect``, and only for plans with targets. Values come from the raw logits, before any bias.
        """
        ...


class SavingDecoder(Decoder, Protocol):
    """A decoder that takes what a sequence holds out of its memory and puts it back (``Capabilities.saving``).

    Both are called between ``collect`` and ``submit``.
    """

    def save(self, seq: int) -> State | None:
        """Return what ``seq`` holds; None where that can't be had, for want of memory for instance.

        Never asked for a sequence that was the target of a ``Copy`` after the last plan with slices: some engines copy
        only when they next compute.
        """
        ...

    def restore(self, seq: int, state: State, n_tokens: int) -> bool:
        """Make empty ``seq`` hold what was saved, which is ``n_tokens`` positions; False, and ``seq`` empty, if not.

        ``seq`` is neither source nor target of a ``Copy`` after the last plan with slices. States that come from disk
        were saved under the same ``StateSaving.identity``, perhaps by another process, and are what was saved then.
        """
        ...


class ConstraintCompiler(Protocol):
    """Compiles constraints ahead of their use. Called from the intake thread."""

    def compile(self, constraint: Constraint) -> tuple[str, ...]:
        """Compile and keep a constraint, so that ``Decoder.open`` finds it ready; return warnings.

        Raises ``InvalidRequestError`` for what can't be honoured, is too large, or takes too long.
        """
        ...


class InfillTokens(NamedTuple):
    """Token ids that tell a model to fill a gap: each stands before its part, the last before what is to be written."""

    prefix: int
    suffix: int
    middle: int


class Tokenizer(Protocol):
    """Text to token ids and back. Called from the intake thread and the step thread at the same time."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return token ids. ``parse_special`` reads control tokens written out in the text (templates need it)."""
        ...

    def piece(self, token: int) -> bytes:
        """Return the exact bytes of a token; control tokens give b""."""
        ...

    def spelling(self, token: int) -> bytes:
        """Return what :meth:`piece` does, but a control token as templates write it out; b"" for unknown ids."""
        ...

    @property
    def infill_tokens(self) -> InfillTokens | None:
        """The fill-in-the-middle tokens; None where the model was not made for that."""
        ...


class PromptRenderer(Protocol):
    """Renders chat messages by the model's template. Called from the intake thread."""

    def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
        """Return the prompt's text, ready for ``encode(add_special=False, parse_special=True)``, and the reply's rules.

        ``constraint`` is what the caller asks of the reply's content. The one that is returned holds the whole reply:
        also its thoughts and its calls, where there are any. A renderer that knows of neither returns it unchanged, and
        no ``calls``.

        Raises ``InvalidRequestError`` with the template's own words, ``UnsupportedFeatureError`` for what the model
        can't do.
        """
        ...
