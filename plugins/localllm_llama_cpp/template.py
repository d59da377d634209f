"""Renders chat messages by the template that came with the model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2

from localllm import InvalidRequestError

from .sandbox import SandboxedTemplate, TemplateLimitError

Variables = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Form:
    """One way to put a conversation: its messages, and the tools (OpenAI's objects) that the template shall show."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt's text, and the form that gave it."""

    text: str
    form: Form


class ChatTemplate:
    """A model's chat template. For one thread at a time (the intake thread).

    ``bos_token`` and ``eos_token`` are how those tokens are spelled, "" for none. ``add_bos`` is set when the
    tokenizer puts the beginning token before every text: a prompt then gets it too if the template leaves it out.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "", add_bos: bool = False) -> None:
        """Compile ``source``. Raises ``jinja2.TemplateSyntaxError`` or :class:`~.sandbox.TemplateLimitError`."""
        self.source = source
        self.knows_developer = "developer" in source
        self._template = SandboxedTemplate(source)
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._wanted_start = bos_token if add_bos else ""
        self._names = [name for name in ("xml_tools", "functions", "datetime") if re.search(rf"\b{name}\b", source)]
        self._lists_functions = re.search(r"\bin functions\b", source) is not None

    def render(self, forms: Iterable[Form], variables: Variables, *, says_all: Callable[[str], bool]) -> Rendered:
        """Return the prompt's text, ready for ``encode(add_special=False, parse_special=True)``.

        The first of ``forms`` counts that the template takes and whose text says all that there is to say; if there is
        none such, the first that it takes. Raises ``InvalidRequestError`` with the template's own words.
        """
        incomplete: Rendered | None = None
        refusal: Exception | None = None
        tried: list[Form] = []
        for form in forms:
            if form in tried:
                continue
            tried.append(form)
            try:
                rendered = Rendered(self._with_start(self.render_once(form.messages, form.tools, variables)), form)
            except Exception as error:  # noqa: BLE001  # a template is somebody's program: it can raise anything
                refusal = refusal or error
                if isinstance(error, TemplateLimitError):
                    break  # the next form would cost as much again
                continue
            if says_all(rendered.text):
                return rendered
            incomplete = incomplete or rendered
        if incomplete is not None:
            return incomplete
        message = f"The model's chat template refuses these messages: {_words(refusal)}"
        raise InvalidRequestError(message, param="messages") from refusal

    def generation_prompt(self, rendered: Rendered, variables: Variables) -> str:
        """Return the end of a text that ``render`` gave with ``variables``: what begins the reply; "" for none.

        That is the whole text where the template ends conversations in another way than it goes on with them.
        """
        try:
            without = self.render_once(
                rendered.form.messages, rendered.form.tools, {**variables, "add_generation_prompt": False}
            )
        except Exception:  # noqa: BLE001  # as above
            without = ""
        return rendered.text.removeprefix(self._with_start(without))

    def render_once(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], variables: Variables
    ) -> str:
        """Return what the template itself makes of a conversation. It may raise anything."""
        values = {"add_generation_prompt": True, **variables, **self._tokens, **self._tool_variables(tools)}
        return self._template.render({**values, "messages": messages})

    def _tool_variables(self, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the tools under all names that families have for them, and what else one of them can't do without.

        SmolLM3 looks for ``xml_tools``, Firefunction for ``functions``, as text, and for the date.
        """
        functions = [tool["function"] for tool in tools]
        as_text = json.dumps(functions, ensure_ascii=False, indent=4) if tools else ""
        others = {
            "xml_tools": functions,
            "functions": functions if self._lists_functions else as_text,
            "datetime": datetime.now().astimezone().strftime("%d %B %Y"),
        }
        return ({"tools": tools} if tools else {}) | {name: others[name] for name in self._names}

    def _with_start(self, text: str) -> str:
        return text if text.startswith(self._wanted_start) else self._wanted_start + text


def _words(error: Exception | None) -> str:
    if isinstance(error, jinja2.TemplateError):
        return error.message or type(error).__name__
    return f"{type(error).__name__}: {error}"
