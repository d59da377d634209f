"""Puts a conversation with its tools into forms that ever stricter templates accept, the closest one first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from localllm import CallFormat

from .format_detection import TemplateFormat
from .messages import Message, add_to_system, prepare, rewrites
from .template import Form
from .tool_history import as_thoughts, mended, one_call_each, uniform
from .tool_messages import describe_tools, prepare_tool_messages

_WORD = re.compile(r"[A-Za-z0-9]+")
_N_WORDS = 64
_CONTINUED = "localllm8continued8here"  # no template knows it, and none trims, escapes or folds it


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one prompt has to say, and what its template shows of that.

    ``calls`` is the format in which the model writes calls, and past ones are written where the template leaves them
    out. ``tools`` are OpenAI's objects, from :func:`shown_tool`.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]]
    calls: CallFormat
    shown: TemplateFormat

    @staticmethod
    def of(
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        calls: CallFormat,
        shown: TemplateFormat,
        knows_developer: bool,
    ) -> Conversation:
        """Read OpenAI's messages as they were sent."""
        prepared = uniform(prepare(messages, knows_developer=knows_developer))
        return Conversation(prepared, [shown_tool(tool) for tool in tools], calls, shown)

    def forms(self) -> Iterator[Form]:
        """Yield the forms: tools as the template shows them, or else in the system message; history ever plainer."""
        if self.tools and self.shown.shows_tools:
            yield from self._forms(self.messages, self.tools)
        messages = add_to_system(self.messages, describe_tools(self.calls, self.tools)) if self.tools else self.messages
        yield from self._forms(messages, ())

    def says_all(self, text: str) -> bool:
        """Whether tools, system messages and results of calls stand in ``text``.

        Some templates drop them without a word. A tool's name is there more often than it is called. Of a result one
        word is looked for, for templates write them in many ways, and of a system message most of its first words, for
        some read switches such as ``/no_think`` in it and leave those out.
        """
        called = Counter(
            call["function"]["name"] for message in self.messages for call in message.get("tool_calls", ())
        )
        names = (tool["function"]["name"] for tool in self.tools)
        if any(text.count(name) <= called[name] for name in names):
            return False
        results = (_longest_word(message["content"]) for message in self.messages if message["role"] == "tool")
        system = (message["content"] for message in self.messages if message["role"] == "system")
        return all(word in text for word in results) and all(_is_told(content, text) for content in system)

    def _forms(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Iterator[Form]:
        for history in self._histories(messages):
            for form in rewrites(history):
                yield Form(form, tools)

    def _histories(self, messages: Sequence[Message]) -> Iterator[list[Message]]:
        if not any(message["role"] == "tool" or "tool_calls" in message for message in messages):
            yield list(messages)
            return
        # A template that can't show two calls in one message may drop the second in silence.
        yield self._written(messages if self.calls.parallel else one_call_each(messages))
        whole = mended(messages)
        yield self._written(whole if self.calls.parallel else one_call_each(whole))
        yield self._written(one_call_each(whole))
        yield self._written(as_thoughts(one_call_each(whole)))
        yield self._written(messages, as_text=True)

    def _written(self, messages: Sequence[Message], *, as_text: bool = False) -> list[Message]:
        return prepare_tool_messages(
            messages,
            self.calls,
            shows_calls=self.shown.shows_calls and not as_text,
            shows_results=self.shown.shows_results and not as_text,
            arguments_as_text=self.shown.arguments_as_text,
        )


def shown_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool (OpenAI's object) with all that templates look for, and without what is no business of the model's.

    ``strict`` holds the engine to the schema; no model was trained on it.
    """
    function = tool["function"]
    known = {
        "name": function["name"],
        "description": function.get("description") or "",
        "parameters": function.get("parameters") or {"type": "object", "properties": {}},
    }
    others = {key: value for key, value in function.items() if key not in (*known, "strict")}
    return {"type": "function", "function": known | others}


def open_end(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the messages with a mark at the end of the last one's content, for :func:`up_to_open_end`."""
    *before, last = messages
    return [*before, {**last, "content": f"{last['content']}{_CONTINUED}"}]


def has_open_end(text: str) -> bool:
    """Whether the mark stands in a rendered text."""
    return _CONTINUED in text


def up_to_open_end(text: str) -> str:
    """Return a rendered text up to the mark: it ends as the last message's content does, white space included."""
    return text[: text.rindex(_CONTINUED)]


def _is_told(content: str, text: str) -> bool:
    if content.strip() in text:
        return True
    words = [found[0] for found in islice(_WORD.finditer(content), _N_WORDS)]
    return sum(word in text for word in words) > len(words) * 0.75


def _longest_word(text: str) -> str:
    return max(_WORD.findall(text), key=len, default="")
