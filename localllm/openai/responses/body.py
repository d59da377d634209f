"""The response object: what of a request it repeats, and the states that it can be in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from localllm.contract.errors import LocalLLMError
from localllm.contract.generation import Usage
from localllm.openai.responses.functions import shown_tools
from localllm.openai.responses.request import ResponseRequest

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Body = dict[str, Any]

UNFINISHED: Final = ("queued", "in_progress")
_CALLERS_FAULTS: Final = frozenset({"invalid_request", "unsupported_feature", "context_length_exceeded"})
_TRY_LATER: Final = frozenset({"overloaded"})


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The constant part of a response. ``created_at`` is in seconds since 1970; ``model`` is the id of the one asked.

    ``extra`` stands in the body beside OpenAI's own fields, where there is any: warnings, what other plugins tell.
    """

    id: str
    created_at: int
    model: str
    request: ResponseRequest

    def body(
        self,
        status: Status,
        output: Sequence[Mapping[str, Any]] = (),
        *,
        usage: Usage | None = None,
        error: LocalLLMError | None = None,
        is_cut: bool = False,
        completed_at: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Body:
        """Return the object in one state; ``is_cut`` says that the token limit ended the answer."""
        asked = self.request
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": asked.background,
            "completed_at": completed_at,
            "conversation": None if asked.conversation is None else {"id": asked.conversation},
            "error": None if error is None else error_fields(error),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata,
            "model": self.model,
            "output": list(output),
            "parallel_tool_calls": asked.parallel_tool_calls,
            "previous_response_id": asked.previous_response_id,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": {"effort": asked.reasoning_effort or asked.reasoning.effort, "summary": self._summary},
            "safety_identifier": asked.safety_identifier,
            "service_tier": "default",
            "temperature": asked.temperature,
            "text": {"format": dict(asked.text.format), "verbosity": asked.text.verbosity},
            "tool_choice": asked.tool_choice.shown,
            "tools": shown_tools(asked.tools.tools),
            "top_logprobs": asked.top_logprobs,
            "top_p": asked.top_p,
            "truncation": asked.truncation,
            "usage": None if usage is None else usage_fields(usage, is_cached=asked.cache_prompt),
            "user": asked.user,
            **(extra or {}),
        }

    @property
    def _summary(self) -> str | None:
        return self.request.reasoning.summary or self.request.reasoning.generate_summary


def usage_fields(usage: Usage, *, is_cached: bool = True) -> dict[str, Any]:
    """Return ``usage``. ``is_cached``: what was evaluated of the prompt is kept for those that begin alike."""
    evaluated = usage.prompt_tokens - usage.cached_tokens
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": evaluated if is_cached else 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def error_fields(error: LocalLLMError) -> dict[str, str]:
    """Return ``error``. OpenAI has few codes here; the message tells the rest."""
    code = "server_error"
    if error.code in _CALLERS_FAULTS:
        code = "invalid_prompt"
    elif error.code in _TRY_LATER:
        code = "rate_limit_exceeded"
    return {"code": code, "message": error.message}


def simple_body(model: str, text: str) -> Body:
    """Return the answer of the simple shape."""
    return {"model": model, "output": {"role": "assistant", "content": text}}
