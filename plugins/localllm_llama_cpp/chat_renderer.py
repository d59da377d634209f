"""Renders a chat request: the conversation's text by the template, and how the reply to it is read and held."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from localllm import (
    CallFormat,
    ChatFormat,
    ChatPrompt,
    Constraint,
    InvalidRequestError,
    ModelUnsupportedError,
    RenderedPrompt,
    ReplyRules,
    ThoughtFormat,
    Tool,
    ToolChoice,
)

from .conversation import Conversation, has_open_end, open_end, up_to_open_end
from .format_detection import THINKING_OFF, THINKING_ON, TemplateFormat, detect_format, preset, prompt_opens_thought
from .format_presets import HERMES
from .lark_text import SpecialToken, no_special_token
from .reply_grammar import Opening, reply_constraint
from .template import ChatTemplate
from .tool_messages import ToolCall, write_calls

_UNKNOWN = TemplateFormat(ChatFormat())


@dataclass(frozen=True, slots=True)
class _Offer:
    """The tools of one request: those that the model is told of, and those that it may call, in which format."""

    told: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Tool, ...] = ()
    calls: CallFormat | None = None
    choice: ToolChoice = "none"


class ChatRenderer:
    """Renders for one model; used by the intake thread.

    ``found`` is what the template was found to show; ``special_token`` knows the model's special tokens by spelling,
    and ``ends`` are those that end a reply.
    """

    def __init__(
        self,
        template: ChatTemplate,
        found: TemplateFormat = _UNKNOWN,
        special_token: SpecialToken = no_special_token,
        ends: Collection[int] = (),
    ) -> None:
        self._template = template
        self._format = found.format
        self._calls, self._shown = _effective(found)
        self._thinks_unasked = found.thinks_unasked
        self._special_token = special_token
        self._ends = ends

    def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
        """Return the prompt's text, the reply's rules and what holds all of it. Raises ``InvalidRequestError``."""
        offer = self._offer(prompt)
        text, opening = self._continued(prompt, offer) if prompt.continue_final_message else self._begun(prompt, offer)
        whole, warnings = reply_constraint(
            self._format,
            opening=opening,
            calls=offer.calls,
            tools=offer.tools,
            choice=offer.choice,
            parallel=prompt.parallel_tool_calls,
            content=constraint,
            special_token=self._special_token,
            ends=self._ends,
        )
        rules = ReplyRules(
            thought=self._format.thought,
            in_thought=opening == "open",
            calls=offer.calls,
            tools=offer.tools,
            parallel=prompt.parallel_tool_calls,
            thought_budget=prompt.thought_budget,
            content_open=self._format.content_open,
            content_close=self._format.content_close,
        )
        return RenderedPrompt(text, rules, whole, warnings)

    def _offer(self, prompt: ChatPrompt) -> _Offer:
        if not prompt.tools or prompt.tool_choice == "none":
            return _Offer()
        tools = tuple(_as_tool(tool["function"]) for tool in prompt.tools)
        if prompt.tool_name is None:
            return _Offer(prompt.tools, tools, self._calls, prompt.tool_choice)
        named = tuple(tool for tool in tools if tool.name == prompt.tool_name)
        if not named:
            names = ", ".join(tool.name for tool in tools)
            message = f"tool_choice names the function {prompt.tool_name!r}, but tools has only: {names}."
            raise InvalidRequestError(message, param="tool_choice")
        return _Offer(prompt.tools, named, self._calls, "required")

    def _begun(self, prompt: ChatPrompt, offer: _Offer) -> tuple[str, Opening]:
        """Return the text up to where a new message begins, and whether a thought has begun with it."""
        variables = _variables(prompt)
        conversation = self._conversation(prompt.messages, offer)
        rendered = self._template.render(conversation.forms(), variables, says_all=conversation.says_all)
        thought = self._format.thought
        if prompt_opens_thought(rendered.text, thought):
            return rendered.text, "open"
        # The end of a user's message, or of a thought in the history, may look like the end of an empty thought.
        if _ends_thought(rendered.text, thought):
            begin = self._template.generation_prompt(rendered, variables)
            return rendered.text, "closed" if _ends_thought(begin, thought) else self._unopened(variables)
        return rendered.text, self._unopened(variables)

    def _unopened(self, variables: Mapping[str, Any]) -> Opening:
        """Return whether a thought can begin where the prompt neither opens nor ends one.

        What is held to a grammar must think of its own accord only where that is the model's way, or asked for: what
        it would say is often not allowed, and a thought always would be.
        """
        switches = [variables[name] for name in THINKING_ON if isinstance(variables.get(name), bool)]
        return "none" if (any(switches) if switches else self._thinks_unasked) else "closed"

    def _continued(self, prompt: ChatPrompt, offer: _Offer) -> tuple[str, Opening]:
        """Return the text up to the end of the last message's content, and whether that ends in a thought."""
        last = prompt.messages[-1] if prompt.messages else {}
        content = last.get("content")
        if last.get("role") != "assistant" or not content or last.get("tool_calls") or last.get("function_call"):
            message = "continue_final_message needs a last message of role assistant, with some content and no calls."
            raise InvalidRequestError(message, param="continue_final_message")
        conversation = self._conversation(open_end(prompt.messages), offer)
        rendered = self._template.render(
            conversation.forms(),
            {**_variables(prompt), "add_generation_prompt": False},
            says_all=lambda text: has_open_end(text) and conversation.says_all(text),
        )
        if not has_open_end(rendered.text):
            message = "The model's chat template leaves the last message out, so that it can't be continued."
            raise InvalidRequestError(message, param="continue_final_message")
        return up_to_open_end(rendered.text), "open" if _is_open(str(content), self._format.thought) else "closed"

    def _conversation(self, messages: Sequence[Mapping[str, Any]], offer: _Offer) -> Conversation:
        return Conversation.of(
            messages,
            offer.told,
            calls=self._calls,
            shown=self._shown,
            knows_developer=self._template.knows_developer,
        )


class BrokenRenderer:
    """Stands in where the template doesn't compile: the model can complete texts, but not chat."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
        """Raise ``ModelUnsupportedError``."""
        message = f"This model's chat template can't be compiled ({self._reason}); use /v1/completions."
        raise ModelUnsupportedError(message)


def find_format(template: ChatTemplate, chat_format: str) -> tuple[TemplateFormat, tuple[str, ...]]:
    """Return what is found in a template, or said by the setting ``chat_format``, and notes on what is not known."""
    try:
        found = detect_format(template.source, template.render_once, chat_format=chat_format)
    except Exception as error:  # noqa: BLE001  # a stranger's template is no reason to do without the model
        reason = f"{type(error).__name__}: {error}"
        note = f"How the model writes thoughts and calls can't be found in its chat template ({reason})"
        known = replace(preset(chat_format), source="config") if chat_format else ChatFormat()
        return TemplateFormat(known), (f"{note}; set chat_format, if you know it.",)
    if found.shows_calls and found.format.calls is None and not chat_format:
        note = "The chat template writes tool calls in a way that is not known here, so that others are asked for"
        return found, (f"{note}; set chat_format, if one fits.",)
    return found, ()


def describe_format(chat: ChatFormat) -> dict[str, Any]:
    """Return a chat format as people read it, in plain JSON: what thoughts stand between, how a call is written."""
    thought, calls = chat.thought, chat.calls
    example = ToolCall("NAME", {"ARGUMENT": "VALUE"}, "ID")
    return {
        "name": chat.name,
        "source": chat.source,
        "thought": {"open": thought.open, "close": thought.close} if thought else None,
        "calls": {"style": calls.style, "example": write_calls(calls, [example])} if calls else None,
    }


def _effective(found: TemplateFormat) -> tuple[CallFormat, TemplateFormat]:
    """Return the format in which calls are asked for, and what of tools is left to the template.

    Nothing is, where its own way to write calls is not known: what the model is told must fit what is read.
    """
    if found.format.calls is not None:
        return found.format.calls, found
    return HERMES, TemplateFormat(found.format)


def _as_tool(function: Mapping[str, Any]) -> Tool:
    return Tool(
        function["name"],
        function.get("parameters") or {},
        function.get("description") or "",
        strict=bool(function.get("strict")),
    )


def _variables(prompt: ChatPrompt) -> dict[str, Any]:
    """Return the template's variables as given; a budget of no tokens switches thinking off where there is a switch."""
    return {**(THINKING_OFF if prompt.thought_budget == 0 else {}), **prompt.template_kwargs}


def _ends_thought(text: str, thought: ThoughtFormat | None) -> bool:
    return thought is not None and text.rstrip().endswith(thought.close.strip())


def _is_open(content: str, thought: ThoughtFormat | None) -> bool:
    """Whether a message that is to be continued ends amid a thought."""
    if thought is None or not thought.open.strip():
        return False
    return content.rfind(thought.open.strip()) > content.rfind(thought.close.strip())
