"""One generation: what is asked for, and the events that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn and when to stop.

    ``None`` means "the model's default" for ``temperature``, ``top_k``, ``top_p``, ``min_p`` (the file's
    ``general.sampling.*``, else 0.8, 40, 0.95, 0.05), "until the model stops" for ``max_tokens`` and "random" for
    ``seed``. All other defaults are neutral. Choice k of a request draws with ``seed + k``.
    """

    temperature: float | None = None
    top_k: int | None = None  # 0 or less: off
    top_p: float | None = None  # 1.0: off
    min_p: float | None = None  # 0.0: off
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64  # tokens; 0: off, -1: the whole context
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, added to the logit; -100 and below ban)
    seed: int | None = None
    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False  # no end token may be drawn
    logprobs: int | None = None  # None: off; k: log-probabilities of the chosen token and of the k most likely


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages to be rendered by the model's own chat template, in the worker.

    ``messages`` are plain JSON objects as OpenAI defines them, already checked: ``role`` and ``content`` (a string).
    """

    messages: tuple[Mapping[str, Any], ...]
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Raw text, tokenised in the worker with the model's own beginning-of-sequence rule."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, used as they are."""

    tokens: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt and ``sampling.n`` answers to it.

    ``owner`` names who may share cached prefixes with whom (the API key's fingerprint, or "" for everybody).
    """

    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    owner: str = ""
    cache_prompt: bool = True


@dataclass(frozen=True, slots=True)
class TokenAlternative:
    """One row of ``top_logprobs``: a token's text, its exact bytes and its natural log-probability."""

    text: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The chosen token with its log-probability and the most likely alternatives, taken from the raw logits."""

    text: str
    bytes: bytes
    logprob: float
    top: tuple[TokenAlternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt was rendered, tokenised and queued. Sent once, before any chunk."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text that is final for one choice: complete code points, with no byte of a stop string in it.

    ``tokens`` counts the tokens that this chunk is made of (0 when only held-back text is let go).
    """

    choice: int
    text: str
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """One choice is complete. ``stop`` is the stop string that ended it, if one did."""

    choice: int
    reason: FinishReason
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a whole request; ``cached_tokens`` of the prompt were not evaluated again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds as the worker's clock saw them: waiting, prompt evaluation, then decoding."""

    queue_ms: float
    prompt_ms: float
    predicted_ms: float


@dataclass(frozen=True, slots=True)
class Finished:
    """All choices are complete. The last event of every successful generation."""

    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended by an error (:meth:`LocalLLMError.to_wire`). The last event of every failed generation."""

    error: Mapping[str, Any]


GenerateEvent = Started | Chunk | ChoiceFinished | Finished
"""What a client's ``generate`` yields; a :class:`Failed` is raised as its typed exception instead."""
