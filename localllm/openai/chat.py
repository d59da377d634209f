"""The request of ``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field

from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError
from localllm.contract.generation import ChatPrompt, GenerateRequest
from localllm.contract.interception import SessionWish
from localllm.openai.messages import Messages, to_plain_messages
from localllm.openai.sampling import MAX_LOGPROBS, GenerationFields, TokenLimit
from localllm.openai.sessions import MAX_SESSION_ID_CHARS
from localllm.openai.thinking import ThinkingFields
from localllm.openai.tools import CallForm, ToolFields
from localllm.openai.unsupported import CHAT_REFUSALS, refuse_unsupported
from localllm.openai.wire_model import validate

INSTRUCTION_ROLES: Final = ("system", "developer")


class ChatCompletionRequest(GenerationFields, ToolFields, ThinkingFields):
    """A checked chat request; :func:`parse_chat` makes it.

    ``continue_final_message`` goes on with the last message, an unfinished one of the assistant's, instead of beginning
    a new one (``add_generation_prompt``): of the two, one. ``session_id`` names the conversation that the messages
    go on with; "new" begins one.
    """

    messages: Messages
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    continue_final_message: bool = False
    add_generation_prompt: bool | None = None
    session_id: str | None = Field(None, min_length=1, max_length=MAX_SESSION_ID_CHARS)

    @property
    def session(self) -> SessionWish | None:
        """The conversation that the request belongs to, if any."""
        return None if self.session_id is None else SessionWish(self.session_id)

    def generate_request(self, system_prompt: str | None = None) -> GenerateRequest:
        """Return what the engine is asked. Raises ``InvalidRequestError`` for fields that don't go together.

        ``system_prompt`` goes before messages among which there are no instructions (of role system or developer).
        """
        self.check_combinations()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs: set logprobs to true.", param="top_logprobs")
        self._check_prompt_end()
        newer = self.max_completion_tokens is not None
        return GenerateRequest(
            prompt=self._prompt(system_prompt),
            sampling=self.sampling_params(
                max_tokens=self.max_completion_tokens if newer else self.max_tokens,
                max_tokens_name="max_completion_tokens" if newer else "max_tokens",
                logprobs=self.top_logprobs if self.logprobs else None,
            ),
            cache_prompt=self.cache_prompt,
            prompt_logprobs=self.prompt_logprobs,
            adapters=self.lora,
        )

    @property
    def call_form(self) -> CallForm:
        """How the answer words calls. Raises as :meth:`generate_request` does."""
        return self.offer().form

    def _prompt(self, system_prompt: str | None) -> ChatPrompt:
        offer = self.offer()
        messages = to_plain_messages(self.messages)
        if system_prompt and not any(message["role"] in INSTRUCTION_ROLES for message in messages):
            messages = ({"role": "system", "content": system_prompt}, *messages)
        return ChatPrompt(
            messages,
            self.template_kwargs(),
            tools=offer.tools,
            tool_choice=offer.choice.mode,
            tool_name=offer.choice.name,
            parallel_tool_calls=offer.parallel,
            continue_final_message=self.continue_final_message,
            thought_budget=self.thought_budget,
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
        elif not self.messages[-1].can_be_continued:
            message = (
                "continue_final_message needs a last message of role assistant with some content, and no calls behind "
                "it, to go on from."
            )
        else:
            return
        raise InvalidRequestError(message, param="continue_final_message")


def parse_chat(body: Mapping[str, Any]) -> ChatCompletionRequest:
    """Return the checked request in ``body`` (decoded JSON).

    Raises ``InvalidRequestError``, or ``UnsupportedFeatureError`` for what would change the answer and isn't there yet;
    both name the field as ``param``.
    """
    refuse_unsupported(body, CHAT_REFUSALS)
    return validate(ChatCompletionRequest, body)
