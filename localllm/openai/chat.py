"""The request of ``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field

from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError
from localllm.contract.generation import ChatPrompt, GenerateRequest
from localllm.openai.messages import Messages, to_plain_messages
from localllm.openai.sampling import MAX_LOGPROBS, GenerationFields, TokenLimit
from localllm.openai.unsupported import CHAT_REFUSALS, refuse_unsupported
from localllm.openai.wire_model import validate

RESERVED_TEMPLATE_KWARGS: Final = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "tokenize", "chat_template"}
)


class ChatCompletionRequest(GenerationFields):
    """A checked chat request; :func:`parse_chat` makes it.

    ``continue_final_message`` goes on with the last message, an unfinished one of the assistant's, instead of beginning
    a new one (``add_generation_prompt``): of the two, one.
    """

    messages: Messages
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    reasoning_effort: str | None = Field(None, max_length=64)
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    continue_final_message: bool = False
    add_generation_prompt: bool | None = None

    def generate_request(self) -> GenerateRequest:
        """Return what the engine is asked. Raises ``InvalidRequestError`` for fields that don't go together."""
        self.check_combinations()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs: set logprobs to true.", param="top_logprobs")
        self._check_prompt_end()
        newer = self.max_completion_tokens is not None
        return GenerateRequest(
            prompt=ChatPrompt(
                to_plain_messages(self.messages),
                self._template_kwargs(),
                continue_final_message=self.continue_final_message,
            ),
            sampling=self.sampling_params(
                max_tokens=self.max_completion_tokens if newer else self.max_tokens,
                max_tokens_name="max_completion_tokens" if newer else "max_tokens",
                logprobs=self.top_logprobs if self.logprobs else None,
            ),
            cache_prompt=self.cache_prompt,
            prompt_logprobs=self.prompt_logprobs,
        )

    def _check_prompt_end(self) -> None:
        if not self.continue_final_message:
            if self.add_generation_prompt is False:
                message = (
                    "add_generation_prompt false is only supported with continue_final_message: "
                    "otherwise an answer begins a new message. Leave it out."
                )
                raise UnsupportedFeatureError(message, param="add_generation_prompt")
            return
        if self.add_generation_prompt:
            message = "continue_final_message and add_generation_prompt can't both be true: leave one of them out."
        elif self.messages[-1].role != "assistant" or not self.messages[-1].content:
            message = "continue_final_message needs a last message of role assistant with some content to go on from."
        else:
            return
        raise InvalidRequestError(message, param="continue_final_message")

    def _template_kwargs(self) -> dict[str, Any]:
        reserved = sorted(RESERVED_TEMPLATE_KWARGS.intersection(self.chat_template_kwargs))
        if reserved:
            raise InvalidRequestError(
                f"chat_template_kwargs can't set {', '.join(reserved)}: the server fills that in itself.",
                param="chat_template_kwargs",
            )
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return effort | self.chat_template_kwargs


def parse_chat(body: Mapping[str, Any]) -> ChatCompletionRequest:
    """Return the checked request in ``body`` (decoded JSON).

    Raises ``InvalidRequestError``, or ``UnsupportedFeatureError`` for what would change the answer and isn't there yet;
    both name the field as ``param``.
    """
    refuse_unsupported(body, CHAT_REFUSALS)
    return validate(ChatCompletionRequest, body)
