"""The request of ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pydantic import AliasChoices, Field

from localllm.contract.errors import InvalidRequestError
from localllm.contract.generation import GenerateRequest, InfillPrompt, TextPrompt, TokenPrompt
from localllm.openai.sampling import MAX_CHOICES, MAX_LOGPROBS, UNTIL_MODEL_STOPS, GenerationFields
from localllm.openai.texts import Texts, texts_field, to_prompts
from localllm.openai.unsupported import COMPLETION_REFUSALS, refuse_unsupported
from localllm.openai.wire_model import validate

MAX_PROMPTS: Final = 128
MAX_ANSWERS: Final = 128
DEFAULT_MAX_TOKENS: Final = 16

if TYPE_CHECKING:
    PromptField = Texts
else:
    PromptField = texts_field(str, max_texts=MAX_PROMPTS)


class CompletionRequest(GenerationFields):
    """A checked completions request; :func:`parse_completion` makes it.

    ``best_of`` answers are drawn for each prompt, and the ``n`` best of them returned. ``suffix`` is what follows the
    gap that is to be filled; "" is none. ``max_tokens`` may be 0 with ``echo``: then only the prompt comes back.
    """

    prompt: PromptField
    suffix: str | None = None
    max_tokens: int | None = Field(
        None, ge=UNTIL_MODEL_STOPS, lt=2**31, validation_alias=AliasChoices("max_tokens", "n_predict")
    )
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)

    @property
    def drawn(self) -> int:
        """How many answers are written to each prompt; ``n`` of them are returned."""
        return self.best_of or self.n

    def prompts(self) -> tuple[TextPrompt | TokenPrompt | InfillPrompt, ...]:
        """Return the prompts, in the order of the answer's choices. Raises where they have no place for a suffix."""
        prompts = to_prompts(self.prompt)
        if not self.suffix:
            return prompts
        return tuple(_before(self.suffix, prompt) for prompt in prompts)

    def generate_requests(self) -> tuple[GenerateRequest, ...]:
        """Return one request for each prompt. Raises for fields that don't go together."""
        self.check_combinations()
        self._check_best_of()
        prompts = self.prompts()
        self._check_number(len(prompts))
        if self.echo and self.suffix:
            raise InvalidRequestError("suffix can't be used with echo: leave one of them out.", param="suffix")
        limit = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        to_be_ranked = self.drawn > self.n
        sampling = self.sampling_params(
            max_tokens=limit,
            max_tokens_name="max_tokens",
            logprobs=0 if self.logprobs is None and to_be_ranked else self.logprobs,
        )
        sampling = replace(sampling, n=self.drawn)
        return tuple(
            GenerateRequest(
                prompt,
                sampling,
                cache_prompt=self.cache_prompt,
                prompt_logprobs=self._wanted_of_prompt(prompt, limit),
                adapters=self.lora,
            )
            for prompt in prompts
        )

    def _wanted_of_prompt(self, prompt: TextPrompt | TokenPrompt | InfillPrompt, limit: int) -> int | None:
        """Return how many alternatives to each prompt token are needed; None where the tokens themselves are not."""
        wanted = [] if self.prompt_logprobs is None else [self.prompt_logprobs]
        if self.echo and self.logprobs is not None:
            wanted.append(self.logprobs)
        elif self.echo and (limit == 0 or isinstance(prompt, TokenPrompt)):
            wanted.append(0)  # the text of token ids comes with them, and so does an answer of no tokens at all
        return max(wanted, default=None)

    def _check_best_of(self) -> None:
        if self.best_of is None or self.best_of == self.n:
            return
        if self.best_of < self.n:
            message = f"best_of must be at least n ({self.n}), but it is {self.best_of}."
        elif self.stream:
            message = "best_of can't be streamed: which answers are the best shows at their end. Set stream to false."
        else:
            return
        raise InvalidRequestError(message, param="best_of")

    def _check_number(self, n_prompts: int) -> None:
        if n_prompts * self.drawn > MAX_ANSWERS:
            name = "n" if self.best_of is None else "best_of"
            message = f"prompt and {name} ask for {n_prompts} times {self.drawn} answers; at most {MAX_ANSWERS} can be."
            raise InvalidRequestError(message, param=name)


def _before(suffix: str, prompt: TextPrompt | TokenPrompt) -> InfillPrompt:
    if isinstance(prompt, TokenPrompt):
        raise InvalidRequestError("suffix needs prompts of text, not of token ids.", param="suffix")
    return InfillPrompt(prompt.text, suffix)


def parse_completion(body: Mapping[str, Any]) -> CompletionRequest:
    """Return the checked request in ``body`` (decoded JSON).

    Raises ``InvalidRequestError``, or ``UnsupportedFeatureError`` for what would change the answer and isn't there yet;
    both name the field as ``param``.
    """
    refuse_unsupported(body, COMPLETION_REFUSALS)
    request = validate(CompletionRequest, body)
    if request.max_tokens == 0 and not request.echo:
        name = "n_predict" if body.get("max_tokens") is None else "max_tokens"
        message = f"{name} must be at least 1, or -1 for no limit, not 0, where echo is not set."
        raise InvalidRequestError(message, param=name)
    return request
