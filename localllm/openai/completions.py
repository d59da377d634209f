"""The request of ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Discriminator, Field, Tag

from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError
from localllm.contract.generation import GenerateRequest, TextPrompt, TokenPrompt
from localllm.openai.sampling import MAX_CHOICES, MAX_LOGPROBS, MAX_TOKEN_ID, GenerationFields
from localllm.openai.unsupported import COMPLETION_REFUSALS, refuse_unsupported
from localllm.openai.wire_model import validate

MAX_PROMPTS: Final = 128
MAX_ANSWERS: Final = 128
MAX_PROMPT_TOKENS: Final = 1_000_000
DEFAULT_MAX_TOKENS: Final = 16

_ANY_FORM: Final = "<a string, a list of strings, a list of token ids, or a list of such lists>"


def _tag_prompt(prompt: object) -> str:
    if isinstance(prompt, str):
        return "<text>"
    first = prompt[0] if isinstance(prompt, list) and prompt else None
    if type(first) is int:
        return "<tokens>"
    if isinstance(first, list):
        return "<token lists>"
    return "<texts>" if isinstance(first, str) else _ANY_FORM


TokenIds = Annotated[
    list[Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]],
    Field(min_length=1, max_length=MAX_PROMPT_TOKENS, fail_fast=True),
]
_PromptList = Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)
PromptField = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[str], _PromptList, Tag("<texts>")]
    | Annotated[TokenIds, Tag("<tokens>")]
    | Annotated[list[TokenIds], _PromptList, Tag("<token lists>")]
    | Annotated[list[str], _PromptList, Tag(_ANY_FORM)],
    Discriminator(_tag_prompt),
]


class CompletionRequest(GenerationFields):
    """A checked completions request; :func:`parse_completion` makes it."""

    prompt: PromptField
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)

    def prompts(self) -> tuple[TextPrompt | TokenPrompt, ...]:
        """Return the prompts, in the order of the answer's choices."""
        if isinstance(self.prompt, str):
            return (TextPrompt(self.prompt),)
        if isinstance(self.prompt[0], int):
            return (_as_prompt(self.prompt),)
        return tuple(_as_prompt(part) for part in self.prompt)

    def echoed(self) -> tuple[str, ...]:
        """Return the text that stands before each prompt's answers: the prompts when ``echo`` is set, else ""."""
        return tuple(p.text if self.echo and isinstance(p, TextPrompt) else "" for p in self.prompts())

    def generate_requests(self) -> tuple[GenerateRequest, ...]:
        """Return one request for each prompt. Raises for fields that don't go together."""
        self.check_combinations()
        self._check_best_of()
        prompts = self.prompts()
        self._check_echo(prompts)
        answers = len(prompts) * self.n
        if answers > MAX_ANSWERS:
            raise InvalidRequestError(
                f"prompt and n ask for {len(prompts)} times {self.n} answers; at most {MAX_ANSWERS} are possible.",
                param="n",
            )
        limit = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        sampling = self.sampling_params(max_tokens=limit, max_tokens_name="max_tokens", logprobs=self.logprobs)
        return tuple(GenerateRequest(prompt, sampling, cache_prompt=self.cache_prompt) for prompt in prompts)

    def _check_best_of(self) -> None:
        if self.best_of is None or self.best_of == self.n:
            return
        if self.best_of < self.n:
            message = f"best_of must be at least n ({self.n}), but it is {self.best_of}."
            raise InvalidRequestError(message, param="best_of")
        message = "best_of is not supported here: every answer that is written is returned. Use n instead."
        raise UnsupportedFeatureError(message, param="best_of")

    def _check_echo(self, prompts: tuple[TextPrompt | TokenPrompt, ...]) -> None:
        if not self.echo:
            return
        if self.logprobs is not None:
            message = "echo together with logprobs is not supported here: ask for one of them."
        elif any(isinstance(prompt, TokenPrompt) for prompt in prompts):
            message = "echo of a prompt of token ids is not supported here: send the prompt as text."
        else:
            return
        raise UnsupportedFeatureError(message, param="echo")


def _as_prompt(prompt: str | int | list[int] | list[str] | list[list[int]]) -> TextPrompt | TokenPrompt:
    return TextPrompt(prompt) if isinstance(prompt, str) else TokenPrompt(tuple(prompt))  # type: ignore[arg-type]


def parse_completion(body: Mapping[str, Any]) -> CompletionRequest:
    """Return the checked request in ``body`` (decoded JSON).

    Raises ``InvalidRequestError``, or ``UnsupportedFeatureError`` for what would change the answer and isn't there yet;
    both name the field as ``param``.
    """
    refuse_unsupported(body, COMPLETION_REFUSALS)
    return validate(CompletionRequest, body)
