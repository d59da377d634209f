"""Renders a chat request: the conversation's text by the template, and how the reply to it is read and held."""

from __future__ import annotations

from localllm import ChatPrompt, Constraint, RenderedPrompt

from .template import BrokenTemplate, ChatTemplate


class ChatRenderer:
    """Renders for one model; used by the intake thread."""

    def __init__(self, template: ChatTemplate | BrokenTemplate) -> None:
        self._template = template

    @property
    def is_usable(self) -> bool:
        """Whether the template compiles."""
        return isinstance(self._template, ChatTemplate)

    def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
        """Return the prompt's text and the reply's rules. Raises ``InvalidRequestError``."""
        return RenderedPrompt(self._template.render(prompt.messages, prompt.template_kwargs), constraint=constraint)
