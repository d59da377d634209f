"""The seam between scheduling and evaluation: the scheduler says which tokens at which positions, the decoder how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from localllm.contract.generation import SamplingParams

KvLayout = Literal["unified", "streams"]


class SequenceKey(NamedTuple):
    """One answer being written: a request and the index of its choice."""

    request_id: str
    choice: int


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
    """

    seq: int
    start: int
    tokens: tuple[int, ...]
    sample: tuple[SequenceKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: memory operations in order, then one batch. No sequence has two slices."""

    ops: tuple[Op, ...] = ()
    slices: tuple[Slice, ...] = ()

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

    def close(self, request_id: str) -> None:
        """Free the samplers of a request. Called once for each ``open``."""
        ...


class Tokenizer(Protocol):
    """Text to token ids and back. Called from the intake thread and the step thread at the same time."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return token ids. ``parse_special`` reads control tokens written out in the text (templates need it)."""
        ...

    def piece(self, token: int) -> bytes:
        """Return the exact bytes of a token; control tokens give b""."""
        ...


class PromptRenderer(Protocol):
    """Renders chat messages by the model's template. Raises ``InvalidRequestError`` with the template's own words."""

    def render(self, messages: Sequence[Mapping[str, object]], template_kwargs: Mapping[str, object]) -> str:
        """Return the prompt's text, ready for ``encode(add_special=False, parse_special=True)``."""
        ...
