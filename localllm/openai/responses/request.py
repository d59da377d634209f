"""The request of ``POST /v1/responses``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import AliasChoices, Field, PlainValidator

from localllm.contract.errors import InvalidRequestError
from localllm.contract.generation import ChatPrompt, Constraint, GenerateRequest
from localllm.openai.responses.functions import Functions, ToolWish, read_functions, read_wish
from localllm.openai.responses.history import INSTRUCTION_ROLES, PlainMessage, to_messages
from localllm.openai.responses.ids import MAX_ID_CHARS
from localllm.openai.responses.items import InputItems, Item, read_input
from localllm.openai.responses.text_options import PLAIN_TEXT, TextOptions, read_text_options
from localllm.openai.sampling import MAX_LOGPROBS, GenerationFields, TokenLimit
from localllm.openai.thinking import ReasoningOptions, ThinkingFields
from localllm.openai.tools import Choice, PlainTool
from localllm.openai.unsupported import RESPONSE_REFUSALS, SIMPLE_REFUSALS, refuse_unsupported
from localllm.openai.wire_model import FieldError, check_text, describe, validate

MAX_METADATA_KEYS: Final = 16
MAX_METADATA_KEY_CHARS: Final = 64
MAX_METADATA_VALUE_CHARS: Final = 512
MAX_INCLUDED: Final = 32
_LOGPROBS: Final = "message.output_text.logprobs"
_UNLIMITED: Final = -1

Metadata = Annotated[
    dict[
        Annotated[str, Field(max_length=MAX_METADATA_KEY_CHARS)],
        Annotated[str, Field(max_length=MAX_METADATA_VALUE_CHARS)],
    ],
    Field(max_length=MAX_METADATA_KEYS),
]
Label = Annotated[str, Field(max_length=MAX_ID_CHARS)]


def read_conversation(value: object) -> str:
    """Return the id of a conversation, which may stand in an object."""
    identity = value.get("id") if isinstance(value, dict) else value
    if not isinstance(identity, str) or not 1 <= len(identity) <= MAX_ID_CHARS:
        at = ".id" if isinstance(value, dict) else ""
        raise FieldError(f"must be the id of a conversation, not {describe(identity)}", at=at)
    return check_text(identity)


class Reasoning(ReasoningOptions):
    """``reasoning``. No summary is written: who asks for one gets the thoughts themselves in its place."""

    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None

    @property
    def wants_summary(self) -> bool:
        """Whether the thoughts go where a client looks for their summary."""
        return (self.summary or self.generate_summary) is not None


class _Asked(GenerationFields, ThinkingFields):
    """What both bodies of the endpoint have: whatever chat has for one answer, and instructions."""

    instructions: str | None = None

    def messages(self, items: Sequence[Item], system_prompt: str | None) -> tuple[PlainMessage, ...]:
        """Return what the model is shown; ``system_prompt`` goes before messages without any instructions."""
        messages = to_messages(items)
        has_own = any(message["role"] in INSTRUCTION_ROLES for message in messages)
        first = self.instructions or (None if has_own else system_prompt)
        return ({"role": "system", "content": first}, *messages) if first else messages

    def _check_one_answer(self) -> None:
        if self.n != 1:
            raise InvalidRequestError("n must be 1: a response is one answer. Leave it out.", param="n")
        if self.prompt_logprobs is not None:
            message = "prompt_logprobs is not for responses: ask /v1/chat/completions, or leave it out."
            raise InvalidRequestError(message, param="prompt_logprobs")


class ResponseRequest(_Asked):
    """A checked request; :func:`parse_response` makes it.

    ``max_output_tokens`` may also be said in the words of the other endpoints. A function that doesn't say ``strict``
    is not. ``store`` None leaves it to the configuration. ``input`` may be missing where there is something to go on
    from.
    """

    input: Annotated[InputItems, PlainValidator(read_input, str | list[dict[str, Any]])] = InputItems(())
    store: bool | None = None
    previous_response_id: Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)] | None = None
    conversation: Annotated[str | None, PlainValidator(read_conversation, str | dict[str, Any])] = None
    background: bool = False
    text: Annotated[TextOptions, PlainValidator(read_text_options, dict[str, Any])] = PLAIN_TEXT
    tools: Annotated[Functions, PlainValidator(read_functions, list[dict[str, Any]])] = Functions()
    tool_choice: Annotated[ToolWish, PlainValidator(read_wish, str | dict[str, Any])] = ToolWish(Choice("auto"), "auto")
    parallel_tool_calls: bool = True
    reasoning: Reasoning = Reasoning()
    include: list[Label] = Field([], max_length=MAX_INCLUDED, fail_fast=True)
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    max_tokens: TokenLimit | None = Field(
        None, validation_alias=AliasChoices("max_output_tokens", "max_tokens", "max_completion_tokens", "n_predict")
    )
    max_tool_calls: int | None = Field(None, ge=1, lt=2**31)
    metadata: Metadata = Field(default_factory=dict)
    truncation: Literal["auto", "disabled"] = "disabled"
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    service_tier: Label | None = None

    @property
    def shows_logprobs(self) -> bool:
        """Whether the answer's text has log-probabilities."""
        return _LOGPROBS in self.include or self.top_logprobs > 0

    @property
    def max_output_tokens(self) -> int | None:
        """How long the answer may be, thoughts included; None: until the model stops."""
        return None if self.max_tokens == _UNLIMITED else self.max_tokens

    def constraint(self) -> Constraint | None:
        """Return what the answer must match. Raises ``InvalidRequestError`` where two fields say it."""
        other = super().constraint()
        own = self.text.constraint
        if other is not None and own is not None:
            message = f"text.format and {other.param} both say what the answer must match: send one of them."
            raise InvalidRequestError(message, param=other.param)
        return other if own is None else replace(own, param="text.format")

    def offered(self) -> tuple[tuple[PlainTool, ...], Choice]:
        """Return the functions that may be called, and which of them may or must be.

        Raises ``InvalidRequestError`` for a choice of what is not offered.
        """
        tools, choice = self.tools.tools, self.tool_choice.choice
        if choice is None or (not tools and self.tools.left_out):
            return tools, Choice("auto")
        if not tools and (choice.mode == "required" or choice.allowed is not None):
            message = "tool_choice needs tools to choose from: send tools too."
            raise InvalidRequestError(message, param="tool_choice")
        names = {tool["function"]["name"] for tool in tools}
        wanted = (*(choice.allowed or ()), *(() if choice.name is None else (choice.name,)))
        missing = next((name for name in wanted if name not in names), None)
        if missing is not None:
            message = f"tool_choice names {describe(missing)}, which is not among tools: name a function of them."
            raise InvalidRequestError(message, param="tool_choice")
        if choice.allowed is not None:
            tools = tuple(tool for tool in tools if tool["function"]["name"] in choice.allowed)
        return tools, choice

    def warnings(self) -> tuple[str, ...]:
        """Return what of the request is left out, in sentences."""
        told: list[str] = []
        if self.tools.left_out:
            kinds = ", ".join(self.tools.left_out)
            told.append(f"Tools of these types are not there and were left out: {kinds}. Models here call functions.")
        if self.tool_choice.choice is None:
            told.append("tool_choice names a tool that is no function; the model chose by itself.")
        if self.input.left_out:
            kinds = ", ".join(self.input.left_out)
            told.append(f"Items of these types can't be read by models here and were left out: {kinds}.")
        return tuple(told)

    def generate_request(
        self, items: Sequence[Item], system_prompt: str | None = None, *, keep: bool = False
    ) -> GenerateRequest:
        """Return what the engine is asked. Raises ``InvalidRequestError`` for fields that don't go together.

        ``items`` are the whole conversation, references resolved; ``keep`` says that it will go on.
        """
        self.check()
        if not items:
            message = "input has nothing in it that a model here can read: send a message."
            raise InvalidRequestError(message, param="input")
        tools, choice = self.offered()
        prompt = ChatPrompt(
            self.messages(items, system_prompt),
            self.template_kwargs(),
            tools=tools,
            tool_choice=choice.mode if tools else "auto",
            tool_name=choice.name,
            parallel_tool_calls=self.parallel_tool_calls,
            thought_budget=self.thought_budget,
        )
        sampling = self.sampling_params(
            max_tokens=self.max_tokens,
            max_tokens_name="max_output_tokens",
            logprobs=self.top_logprobs if self.shows_logprobs else None,
        )
        return GenerateRequest(prompt, sampling, cache_prompt=self.cache_prompt, adapters=self.lora, keep=keep)

    def check(self) -> None:
        """Raise ``InvalidRequestError`` for fields that don't go together."""
        self._check_one_answer()
        if self.previous_response_id is not None and self.conversation is not None:
            message = "previous_response_id and conversation both say what went before: send one of them."
            raise InvalidRequestError(message, param="conversation")
        if self.input == InputItems(()) and self.previous_response_id is None and self.conversation is None:
            message = "input is required, unless previous_response_id or conversation says what to go on from."
            raise InvalidRequestError(message, param="input")
        if self.background and self.store is False:
            message = "background needs store: the answer is fetched later. Set store to true, or leave it out."
            raise InvalidRequestError(message, param="background")


class SimpleRequest(_Asked):
    """The body of the simple shape: one text in, one message out. What chat knows beside is heeded too."""

    input: str = Field(min_length=1)

    def generate_request(self, system_prompt: str | None, *, temperature: float) -> GenerateRequest:
        """Return what the engine is asked; ``temperature`` is for requests that name none."""
        self._check_one_answer()
        prompt = ChatPrompt(
            self.messages(read_input(self.input).items, system_prompt),
            self.template_kwargs(),
            thought_budget=self.thought_budget,
        )
        sampling = self.sampling_params(max_tokens=self.max_tokens, max_tokens_name="max_tokens", logprobs=None)
        if sampling.temperature is None:
            sampling = replace(sampling, temperature=temperature)
        return GenerateRequest(prompt, sampling, cache_prompt=self.cache_prompt, adapters=self.lora)


def parse_response(body: Mapping[str, Any]) -> ResponseRequest:
    """Return the checked request in ``body`` (decoded JSON).

    Raises ``InvalidRequestError``, or ``UnsupportedFeatureError`` for what would change the answer and isn't there;
    both name the field as ``param``.
    """
    refuse_unsupported(body, RESPONSE_REFUSALS)
    return validate(ResponseRequest, body)


def parse_simple(body: Mapping[str, Any]) -> SimpleRequest:
    """Return the checked request of the simple shape. Raises as :func:`parse_response` does."""
    refuse_unsupported(body, SIMPLE_REFUSALS)
    return validate(SimpleRequest, body)
