"""Renders chat messages by the template that came with the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from localllm import InvalidRequestError, ModelUnsupportedError

from .messages import Message, prepare, rewrites
from .sandbox import SandboxedTemplate


class ChatTemplate:
    """A model's chat template. ``render`` is for one thread at a time (the intake thread).

    ``bos_token`` and ``eos_token`` are how those tokens are spelled, "" for none. ``add_bos`` is set when the
    tokenizer puts the beginning token before every text: a prompt then gets it too if the template leaves it out.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "", add_bos: bool = False) -> None:
        """Compile ``source``. Raises ``jinja2.TemplateSyntaxError`` or :class:`~.sandbox.TemplateLimitError`."""
        self._template = SandboxedTemplate(source)
        self._knows_developer = "developer" in source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._wanted_start = bos_token if add_bos else ""

    def render(self, messages: Sequence[Mapping[str, object]], template_kwargs: Mapping[str, object]) -> str:
        """Return the prompt's text, ready for ``encode(add_special=False, parse_special=True)``.

        A conversation that the template refuses is tried again in the forms of :func:`~.messages.rewrites`; so is one
        whose system message it leaves out. Raises ``InvalidRequestError`` with the template's own words.
        """
        prepared = prepare(messages, knows_developer=self._knows_developer)
        incomplete: str | None = None
        refusal: Exception | None = None
        for form in rewrites(prepared):
            try:
                text = self._render_form(form, template_kwargs)
            except Exception as error:  # noqa: BLE001  # a template is somebody's program: it can raise anything
                refusal = refusal or error
                continue
            if _says_all(text, prepared):
                return self._with_start(text)
            incomplete = text if incomplete is None else incomplete
        if incomplete is not None:
            return self._with_start(incomplete)
        message = f"The model's chat template refuses these messages: {_words(refusal)}"
        raise InvalidRequestError(message, param="messages") from refusal

    def _render_form(self, messages: Sequence[Message], template_kwargs: Mapping[str, object]) -> str:
        variables: dict[str, Any] = {"add_generation_prompt": True, **template_kwargs, **self._tokens}
        return self._template.render({**variables, "messages": messages})

    def _with_start(self, text: str) -> str:
        return text if text.startswith(self._wanted_start) else self._wanted_start + text


class BrokenTemplate:
    """Stands in for a template that doesn't compile: the model can complete texts, but not chat."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def render(self, messages: Sequence[Mapping[str, object]], template_kwargs: Mapping[str, object]) -> str:
        """Raise ``ModelUnsupportedError``."""
        message = f"This model's chat template can't be compiled ({self._reason}); use /v1/completions."
        raise ModelUnsupportedError(message)


def _says_all(text: str, messages: Sequence[Message]) -> bool:
    """Whether every system message stands in ``text``: some templates drop them without a word."""
    return all(str(message["content"] or "").strip() in text for message in messages if message["role"] == "system")


def _words(error: Exception | None) -> str:
    if isinstance(error, jinja2.TemplateError):
        return error.message or type(error).__name__
    return f"{type(error).__name__}: {error}"
