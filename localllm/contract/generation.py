"""One generation: what is asked for, and the events that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from localllm.contract.adapters import AdapterScale

FinishReason = Literal["stop", "length", "tool_calls"]

Region = Literal["content", "reasoning"]

ConstraintKind = Literal["json_object", "json_schema", "regex", "choice", "lark", "gbnf", "structural_tag"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the text of every choice must match; it is then complete, and ends, where the grammar says so.

    ``source`` is JSON text for ``json_schema`` (a schema), ``choice`` (a list of strings) and ``structural_tag`` (as
    vLLM's ``structural_tag``), the pattern or the grammar for the other kinds, and empty for ``json_object``. With
    ``strict`` unset, what the engine can't honour in a schema is left out, with a warning, instead of being refused.
    ``param`` names the request's field that it comes from, and ``title`` says what it is where that tells too little
    ("The parameters of tool 'x'"): both are for messages and change nothing else. A ``lark`` source may refer to
    ``parts`` as ``@part0``, ``@part1``, and so on: a chat format's frame around what the caller asked for. A frame is
    made in the worker and never sent.
    """

    kind: ConstraintKind
    source: str = ""
    strict: bool = True
    param: str = field(default="", compare=False)
    parts: tuple[Constraint, ...] = field(default=(), metadata={"sent": False})
    title: str = field(default="", compare=False, metadata={"sent": False})


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
    stop_tokens: tuple[int, ...] = ()  # each ends its choice like the model's own end token
    allowed_tokens: tuple[int, ...] | None = None  # no other token may be drawn; end tokens stay allowed
    bad_words: tuple[str, ...] = ()  # texts that may not be written: their tokens, with and without a space before
    text_bias: tuple[tuple[str, float], ...] = ()  # (text, added to the logits of its tokens): logit_bias by text
    typical_p: float = 1.0  # 1.0: off
    top_n_sigma: float = -1.0  # 0 or less: off
    xtc_probability: float = 0.0  # 0.0: off
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0  # 0.0: off
    dry_base: float = 1.75
    dry_allowed_length: int = 2  # tokens
    dry_penalty_last_n: int = -1  # tokens; 0: off, -1: the whole context
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0  # 0: off, 1, 2: the version; replaces top-k, top-p, min-p and typical
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages to be rendered by the model's own chat template, in the worker.

    ``messages`` are plain JSON objects as OpenAI defines them, already checked: ``role`` and ``content`` (a string),
    ``tool_calls``, ``tool_call_id``, ``reasoning_content``. ``tools`` are OpenAI's tool objects. ``tool_name`` names
    the one function that must be called (``tool_choice`` is "required" then). ``continue_final_message`` goes on with
    the last message instead of beginning a new one. ``thought_budget`` ends a thought after so many tokens.
    """

    messages: tuple[Mapping[str, Any], ...]
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Literal["none", "auto", "required"] = "auto"
    tool_name: str | None = None
    parallel_tool_calls: bool = True
    continue_final_message: bool = False
    thought_budget: int | None = None


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Raw text, tokenised in the worker with the model's own beginning-of-sequence rule."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, used as they are."""

    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InfillPrompt:
    """Text before and after a gap, put together in the worker with the model's fill-in-the-middle tokens."""

    prefix: str
    suffix: str


Prompt = ChatPrompt | TextPrompt | TokenPrompt | InfillPrompt


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt and ``sampling.n`` answers to it.

    ``owner`` names who may share cached prefixes with whom (the API key's fingerprint, or "" for everybody).
    ``prompt_logprobs`` k asks for the log-probability of each prompt token, given those before it, and of the k most
    likely ones; ``sampling.max_tokens`` may then be 0. ``adapters`` are those of the model's adapters that count, and
    no others do; None: the usual ones. ``keep`` says that the conversation will go on, so that what was evaluated is
    worth keeping for long, in other memory and on disk too.
    """

    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    owner: str = ""
    cache_prompt: bool = True
    prompt_logprobs: int | None = None
    adapters: tuple[AdapterScale, ...] | None = None
    keep: bool = False


@dataclass(frozen=True, slots=True)
class TokenAlternative:
    """One row of ``top_logprobs``: a token's text, its exact bytes and its natural log-probability.

    ``id`` is given beside tokens of a prompt.
    """

    text: str
    bytes: bytes
    logprob: float
    id: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The chosen token with its log-probability and the most likely alternatives, taken from the raw logits."""

    text: str
    bytes: bytes
    logprob: float
    top: tuple[TokenAlternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt was rendered, tokenised and queued. Sent once, before any chunk.

    ``warnings`` are sentences for the caller: what a request that is not strict asked for and can't get. ``fields`` are
    what interceptors add to the response; the server puts them in.
    """

    prompt_tokens: int
    warnings: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict, metadata={"sent": False})


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Log-probabilities of some prompt tokens, in order; the first of a prompt has ``logprob`` None.

    All of them come before the first chunk. ``prompt`` counts the prompts where several generations are merged into
    one; from a worker it is 0.
    """

    tokens: tuple[PromptToken, ...]
    prompt: int = 0


@dataclass(frozen=True, slots=True)
class PromptToken:
    """One token of the prompt: its id, its text and bytes, and how likely it was."""

    id: int
    text: str
    bytes: bytes
    logprob: float | None
    top: tuple[TokenAlternative, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text that is final for one choice: complete code points, with no byte of a stop string in it.

    ``tokens`` counts the tokens that this chunk is made of (0 when only held-back text is let go). ``region`` tells
    what the model says from what it thinks.
    """

    choice: int
    text: str
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    region: Region = "content"


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of one tool call. ``index`` counts the calls of a choice from 0.

    The first piece of a call has its ``name``, the others None; their ``arguments`` joined are one JSON object. The
    first piece also has the call's ``id``, which the server puts in.
    """

    choice: int
    index: int
    name: str | None = None
    arguments: str = ""
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    id: str = field(default="", metadata={"sent": False})


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """One choice is complete. ``stop`` is the stop string that ended it, if one did."""

    choice: int
    reason: FinishReason
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a whole request; ``cached_tokens`` of the prompt were not evaluated again.

    ``reasoning_tokens`` are those of the completion that are thoughts.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Return the counts of two requests together."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


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


GenerateEvent = Started | PromptLogprobs | Chunk | CallDelta | ChoiceFinished | Finished
"""What a client's ``generate`` yields; a :class:`Failed` is raised as its typed exception instead."""
