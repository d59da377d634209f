"""Whether, how hard and how long the model thinks before it answers, in the words of many services."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AliasChoices, Field

from localllm.contract.errors import InvalidRequestError
from localllm.openai.wire_model import WireModel, describe

NO_BUDGET: Final = -1
NO_EFFORT: Final = "none"
MAX_EFFORT_CHARS: Final = 64
RESERVED_TEMPLATE_KWARGS: Final = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "tokenize", "chat_template"}
)
SWITCHES: Final = ("enable_thinking", "thinking")
"""The two names that chat templates have for the switch."""

Effort = Annotated[str, Field(max_length=MAX_EFFORT_CHARS)]
Budget = Annotated[int, Field(ge=NO_BUDGET, lt=2**31)]


class ReasoningOptions(WireModel):
    """``reasoning``, as OpenRouter has it."""

    effort: Effort | None = None
    max_tokens: Budget | None = None
    enabled: bool | None = None
    exclude: bool | None = None


class ThinkingOptions(WireModel):
    """``thinking``, as Anthropic has it; "adaptive" and "auto" leave it to the model."""

    type: Literal["enabled", "disabled", "adaptive", "auto"] | None = None
    budget_tokens: Budget | None = None


class ThinkingFields(WireModel):
    """The fields about thoughts. For each of four questions the first that answers it counts:

    ================  ======================================================================================
    does it think?    ``chat_template_kwargs`` (``enable_thinking``, ``thinking``), ``enable_thinking``,
                      ``thinking.type``, ``reasoning.enabled``, a budget of 0 (no), the effort ("none": no,
                      another: yes), ``reasoning.max_tokens`` (yes); else as the template has it
    how hard?         ``chat_template_kwargs.reasoning_effort``, ``reasoning_effort``, ``reasoning.effort``
    how many tokens?  ``thinking_budget`` (also ``thinking_budget_tokens``, ``thinking_token_budget``,
                      ``reasoning_budget``, ``reasoning_budget_tokens``), ``thinking.budget_tokens``,
                      ``reasoning.max_tokens``; -1 and absent: as many as it likes
    are they shown?   ``include_reasoning``, the opposite of ``reasoning.exclude``; else yes
    ================  ======================================================================================

    The first two reach the chat template, as ``enable_thinking``, ``thinking`` and ``reasoning_effort``; what a
    template doesn't know changes nothing. Thoughts that are not shown are counted all the same.
    """

    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    thinking_budget: Budget | None = Field(
        None,
        validation_alias=AliasChoices(
            "thinking_budget",
            "thinking_budget_tokens",
            "thinking_token_budget",
            "reasoning_budget",
            "reasoning_budget_tokens",
        ),
    )
    reasoning: ReasoningOptions = ReasoningOptions()
    thinking: ThinkingOptions = ThinkingOptions()
    include_reasoning: bool | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    @property
    def shows_reasoning(self) -> bool:
        """Whether the answer has the text of thoughts."""
        return not self.reasoning.exclude if self.include_reasoning is None else self.include_reasoning

    @property
    def thought_budget(self) -> int | None:
        """How many tokens thoughts may have; None: as many as they like."""
        budget = _first(self.thinking_budget, self.thinking.budget_tokens, self.reasoning.max_tokens)
        return None if budget == NO_BUDGET else budget

    def template_kwargs(self) -> dict[str, Any]:
        """Return what the chat template is told. Raises ``InvalidRequestError`` for what is not the caller's to say."""
        told = {key: value for key, value in self.chat_template_kwargs.items() if value is not None}
        reserved = sorted(RESERVED_TEMPLATE_KWARGS.intersection(self.chat_template_kwargs))
        if reserved:
            raise InvalidRequestError(
                f"chat_template_kwargs can't set {', '.join(reserved)}: the server fills that in itself.",
                param="chat_template_kwargs",
            )
        switch = told.get("enable_thinking")
        if switch is not None and not isinstance(switch, bool):
            param = "chat_template_kwargs.enable_thinking"
            raise InvalidRequestError(f"{param} must be true or false, but it is {describe(switch)}.", param=param)
        effort = self.reasoning_effort or self.reasoning.effort
        thinks = self._thinks(told, effort)
        kwargs: dict[str, Any] = {"reasoning_effort": effort} if effort and effort != NO_EFFORT else {}
        if thinks is not None:
            kwargs |= dict.fromkeys(SWITCHES, thinks)
        return kwargs | told

    def _thinks(self, told: dict[str, Any], effort: str | None) -> bool | None:
        named: list[bool] = [told[name] for name in SWITCHES if isinstance(told.get(name), bool)]
        by_type = {"enabled": True, "disabled": False}.get(self.thinking.type or "")
        return _first(
            *named,
            self.enable_thinking,
            by_type,
            self.reasoning.enabled,
            False if self.thought_budget == 0 else None,
            effort != NO_EFFORT if effort else None,
            True if self.reasoning.max_tokens is not None and self.reasoning.max_tokens > 0 else None,
        )


_T = TypeVar("_T")


def _first(*values: _T | None) -> _T | None:
    """Return the first value that is there."""
    return next((value for value in values if value is not None), None)
