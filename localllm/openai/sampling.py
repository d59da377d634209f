"""The sampling fields that chat and completions share, under the names of OpenAI, llama-server and vLLM."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, AliasChoices, Discriminator, Field, PlainValidator, Tag

from localllm.contract.errors import InvalidRequestError
from localllm.contract.generation import SamplingParams
from localllm.openai.adapters import AdapterFields
from localllm.openai.biases import Biases, parse_logit_bias
from localllm.openai.samplers import SamplerFields
from localllm.openai.structured import StructuredFields
from localllm.openai.wire_model import FieldError, WireModel

MAX_CHOICES: Final = 32
MAX_STOP_STRINGS: Final = 16
MAX_STOP_CHARS: Final = 1024
MAX_LOGPROBS: Final = 20
UNTIL_MODEL_STOPS: Final = -1
RANDOM_SEED: Final = -1


def _tag_stop(value: object) -> str:
    return "<one string>" if isinstance(value, str) else "<a string or a list of strings>"


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
StopField = Annotated[
    Annotated[StopString, Tag("<one string>")]
    | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS), Tag("<a string or a list of strings>")],
    Discriminator(_tag_stop),
]


def _refuse_zero(limit: int) -> int:
    if limit == 0:
        raise FieldError("must be at least 1, or -1 for no limit, not 0")
    return limit


TokenLimit = Annotated[int, Field(ge=UNTIL_MODEL_STOPS, lt=2**31), AfterValidator(_refuse_zero)]


class StreamOptions(WireModel):
    """``stream_options``: what a stream carries beside the answer."""

    include_usage: bool | None = None


class GenerationFields(SamplerFields, StructuredFields, AdapterFields):
    """Every field that chat and completions have in common. Absent and null are the same.

    ``seed`` may be any 64-bit integer and counts modulo 2**32; -1 draws a new one, as for llama-server.
    ``max_tokens`` -1 means until the model stops. ``prompt_logprobs`` is vLLM's: the log-probabilities of each token
    of the prompt.
    """

    model: str | None = Field(None, max_length=512)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    temperature: float | None = Field(None, ge=0, le=2)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repeat_penalty: float = Field(
        1.0, gt=0, le=10, validation_alias=AliasChoices("repeat_penalty", "repetition_penalty")
    )
    repeat_last_n: int = Field(
        64, ge=-1, lt=2**31, validation_alias=AliasChoices("repeat_last_n", "repeat_penalty_num")
    )
    logit_bias: Annotated[Biases, PlainValidator(parse_logit_bias, dict[str, float | bool])] = Biases()
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopField | None = None
    max_tokens: TokenLimit | None = Field(None, validation_alias=AliasChoices("max_tokens", "n_predict"))
    min_tokens: int = Field(0, ge=0, lt=2**31)
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    cache_prompt: bool = True
    timings_per_token: bool = False

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def check_combinations(self) -> None:
        """Raise ``InvalidRequestError`` for fields that are fine alone, but not together."""
        if self.include_usage and not self.stream:
            raise InvalidRequestError(
                "stream_options.include_usage is only for streams: set stream to true, or leave stream_options out.",
                param="stream_options",
            )
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequestError(
                "prompt_logprobs is not for streams: set stream to false, or leave prompt_logprobs out.",
                param="prompt_logprobs",
            )

    def sampling_params(self, *, max_tokens: int | None, max_tokens_name: str, logprobs: int | None) -> SamplingParams:
        """Return the engine's parameters; ``max_tokens`` is the request's own limit, None or -1 for no limit.

        Raises ``InvalidRequestError`` for fields that contradict each other.
        """
        limit = None if max_tokens == UNTIL_MODEL_STOPS else max_tokens
        if limit is not None and self.min_tokens > limit:
            raise InvalidRequestError(
                f"min_tokens must be at most {max_tokens_name} ({limit}), but it is {self.min_tokens}.",
                param="min_tokens",
            )
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            repeat_last_n=self.repeat_last_n,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=self.logit_bias.by_id,
            text_bias=self.logit_bias.by_text,
            seed=None if self.seed is None or self.seed == RANDOM_SEED else self.seed % 2**32,
            n=self.n,
            max_tokens=limit,
            min_tokens=self.min_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            include_stop=self.include_stop_str_in_output,
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
            stop_tokens=tuple(self.stop_token_ids),
            allowed_tokens=None if self.allowed_token_ids is None else tuple(self.allowed_token_ids),
            bad_words=tuple(self.bad_words),
            typical_p=self.typical_p,
            top_n_sigma=self.top_n_sigma,
            xtc_probability=self.xtc_probability,
            xtc_threshold=self.xtc_threshold,
            dry_multiplier=self.dry_multiplier,
            dry_base=self.dry_base,
            dry_allowed_length=self.dry_allowed_length,
            dry_penalty_last_n=self.dry_penalty_last_n,
            dry_sequence_breakers=tuple(self.dry_sequence_breakers),
            mirostat=self.mirostat,
            mirostat_tau=self.mirostat_tau,
            mirostat_eta=self.mirostat_eta,
            constraint=self.constraint(),
        )
