"""Finds out how a model writes thoughts and tool calls, by rendering conversations in its own template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from localllm import CallFormat, ChatFormat, ModelLoadError, ThoughtFormat

from .call_inference import CALLS, KEYS, infer_calls
from .format_presets import FAMILIES, OVERRULING, PRESETS, THOUGHTS, UNTAGGED_THOUGHTS
from .sandbox import TemplateLimitError
from .tool_messages import ToolCall

Message = Mapping[str, Any]
Render = Callable[[Sequence[Message], Sequence[Mapping[str, Any]], Mapping[str, Any]], str]
"""Renders messages, tools and further variables (``add_generation_prompt`` among them). It may raise anything."""

THINKING_ON: Mapping[str, bool] = {"enable_thinking": True, "thinking": True}
THINKING_OFF: Mapping[str, bool] = dict.fromkeys(THINKING_ON, False)
"""The switches of all families' templates: each looks at one of them."""

_USER, _CONTENT, _REASONING, _RESULT = "probeuserprobe", "probecontentprobe", "probereasonprobe", "proberesultprobe"
_ASKED: Message = {"role": "user", "content": _USER}
_TAG = r"<[^<>\s]{1,64}>|\[[^\[\]\s]{1,64}\]"
_THINKING = re.compile(r"think|thought|reason", re.IGNORECASE)
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": call.name,
            "description": f"Does {call.name}.",
            "parameters": {
                "type": "object",
                "properties": {
                    KEYS[0]: {"type": "string", "description": "A text."},
                    KEYS[1]: {"type": "integer", "description": "A number."},
                },
                "required": [KEYS[0]],
            },
        },
    }
    for call in CALLS
]


@dataclass(frozen=True, slots=True)
class TemplateFormat:
    """A model's chat format, and what its template does with tools.

    ``shows_tools``: the tools that are offered reach the model. ``shows_calls`` and ``shows_results``: so do the calls
    of earlier turns, and what came of them; where not, write them into ``content`` (:mod:`~.tool_messages`).
    ``arguments_as_text``: the template wants the arguments of earlier calls as JSON text, not as an object.
    ``thinks_unasked``: to switch thinking on changes nothing, so that a model that thinks does so by default.
    """

    format: ChatFormat
    shows_tools: bool = False
    shows_calls: bool = False
    shows_results: bool = False
    arguments_as_text: bool = False
    thinks_unasked: bool = True


def detect_format(source: str, render: Render, *, chat_format: str = "") -> TemplateFormat:
    """Return what the template ``source``, rendered by ``render``, says of the replies of its model.

    ``chat_format`` names a preset that overrides it. Raises ``ModelLoadError`` if there is no such preset; whatever
    goes wrong in the template only leaves the format unknown.
    """
    probe = _Probe(render)
    asked = preset(chat_format) if chat_format else None
    thought = _detect_thought(source, probe)
    shown = _Shown.of(probe, thought)
    family = next((name for marks, name in FAMILIES if all(mark in source for mark in marks)), "")
    found = asked or _combined(thought, shown, family)
    return TemplateFormat(
        format=replace(found, thought=found.thought or thought, source="config") if asked else found,
        shows_tools=CALLS[0].name in probe.text([_ASKED], tools=_TOOLS),
        shows_calls=shown.is_shown,
        shows_results=_shows_results(probe, as_text=shown.as_text),
        arguments_as_text=shown.as_text,
        thinks_unasked=probe.prompt(THINKING_ON) == probe.prompt({}),
    )


def preset(name: str) -> ChatFormat:
    """Return the preset of that name. Raises ``ModelLoadError`` with the names that there are."""
    if name not in PRESETS:
        message = f"chat_format {name!r} is not known; use one of {', '.join(sorted(PRESETS))}."
        raise ModelLoadError(message)
    return PRESETS[name]


def prompt_opens_thought(prompt: str, thought: ThoughtFormat | None) -> bool:
    """Whether a rendered prompt ends inside a thought, so that the reply begins there."""
    return thought is not None and bool(thought.open) and prompt.rstrip().endswith(thought.open.strip())


def _combined(thought: ThoughtFormat | None, shown: _Shown, family: str) -> ChatFormat:
    """Put together what the template shows and what is known of its family."""
    known = PRESETS.get(family, ChatFormat())
    if family in OVERRULING:
        return known
    thought = thought or (known.thought if family in UNTAGGED_THOUGHTS else None)
    calls = shown.calls if shown.is_shown else known.calls
    if thought is None and calls is None:
        return ChatFormat()
    source = "preset" if calls and not shown.is_shown else "template"
    is_like = known.calls == calls or (calls and known.calls and _openers(calls) == _openers(known.calls))
    return ChatFormat(
        thought, calls, known.content_open, known.content_close, source, family if family and is_like else ""
    )


def _openers(calls: CallFormat) -> tuple[str, ...]:
    return calls.style, calls.section_open.strip(), calls.call_open.strip()


class _Probe:
    """Renders conversations that we made up; one that the template refuses gives "" instead."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._is_endless = False

    def text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """Return the rendered text."""
        if self._is_endless:
            return ""  # each further text would take as long, and the server waits for this model
        try:
            return self._render(messages, tools, {"add_generation_prompt": False, **(variables or {})})
        except TemplateLimitError:
            self._is_endless = True
            return ""
        except Exception:  # noqa: BLE001  # a template is somebody's program: it can raise anything
            return ""

    def reply(self, message: Message, *, tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return what stands behind the user's question when ``message`` answers it."""
        return _behind_question(self.text([_ASKED, message], tools=tools))

    def openings(self) -> list[str]:
        """Return what the prompt may end with, thinking switched on, left alone and off."""
        return [_behind_question(self.prompt(switches)) for switches in (THINKING_ON, {}, THINKING_OFF)]

    def prompt(self, switches: Mapping[str, bool]) -> str:
        """Return the prompt of a question."""
        return self.text([_ASKED], variables={"add_generation_prompt": True, **switches})


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a template shows of calls in the history. ``is_shown`` without ``calls``: no ``CallFormat`` can tell it."""

    calls: CallFormat | None = None
    is_shown: bool = False
    as_text: bool = False

    @staticmethod
    def of(probe: _Probe, thought: ThoughtFormat | None) -> _Shown:
        """Render calls, their arguments as objects first, and look at them."""
        plain = probe.reply({"role": "assistant", "content": _CONTENT}, tools=_TOOLS)
        best = _Shown()
        for as_text in (False, True):
            one, two = (
                _block(plain, probe.reply(_calling(CALLS[:n_calls], as_text=as_text), tools=_TOOLS), thought)
                for n_calls in (1, 2)
            )
            if CALLS[0].name not in one:
                continue
            calls = infer_calls(one, two or None)
            opened = any(calls and calls.call_open and text.endswith(calls.call_open) for text in probe.openings())
            if calls and not opened:
                return _Shown(calls, is_shown=True, as_text=as_text)
            best = best if best.is_shown else _Shown(is_shown=True, as_text=as_text)
            if f"'{KEYS[0]}'" not in one:
                break  # not for arguments written as Python has them, which JSON text will mend
        return best


def _calling(calls: Sequence[ToolCall], *, as_text: bool) -> Message:
    made = [
        {
            "id": call.id,
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": json.dumps(call.arguments) if as_text else dict(call.arguments),
            },
        }
        for call in calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": made}


def _shows_results(probe: _Probe, *, as_text: bool) -> bool:
    result = {"role": "tool", "tool_call_id": CALLS[0].id, "name": CALLS[0].name, "content": _RESULT}
    messages = [_ASKED, _calling(CALLS[:1], as_text=as_text), result]
    return _RESULT in probe.text(messages, tools=_TOOLS)


def _block(plain: str, calling: str, thought: ThoughtFormat | None) -> str:
    """Return what a message with calls has that a message with content has not: the calls and their markers."""
    head, found, behind = plain.partition(_CONTENT)
    if not found or not calling:
        return ""
    start = next(
        (n for n, (a, b) in enumerate(zip(head, calling, strict=False)) if a != b), min(len(head), len(calling))
    )
    for opening, closing in ("<>", "[]"):  # not amid a tag
        tag_at = calling.rfind(opening, 0, start)
        start = tag_at if tag_at > calling.rfind(closing, 0, start) else start
    block = calling[start:]
    if thought:
        empty = rf"\s*(?:{re.escape(thought.open)}\s*)?{re.escape(thought.close)}"
        block = re.sub(f"^{empty}", "", block)
    last = max(block.rfind(needle) for call in CALLS for needle in (call.name, *map(str, call.arguments.values())))
    enders = [tag for tag in (behind.strip(), *re.findall(_TAG, behind)) if tag]
    ends = [at for tag in enders if (at := block.find(tag, last)) >= 0]
    return block[: min(ends)].strip() if last >= 0 and ends else block.strip()


def _behind_question(text: str) -> str:
    _, found, behind = text.rpartition(_USER)
    return behind if found else ""


def _detect_thought(source: str, probe: _Probe) -> ThoughtFormat | None:
    """Look at a rendered thought, then at what prompts open, then at the template itself."""
    thinking = {"role": "assistant", "content": _CONTENT} | dict.fromkeys(
        ("reasoning_content", "reasoning", "thinking"), _REASONING
    )
    for message in (thinking, {**_calling(CALLS[:1], as_text=False), **thinking, "content": ""}):
        before, found, behind = probe.reply(message, tools=_TOOLS).partition(_REASONING)
        opening = re.search(rf"({_TAG})\s*$", before)
        closing = re.match(rf"\s*({_TAG})", behind)
        if found and opening and closing and _THINKING.search(opening[1]):
            return ThoughtFormat(opening[1], closing[1])
    for text in probe.openings():
        opening = re.search(rf"({_TAG})\s*$", text)
        if opening and _THINKING.search(opening[1]) and "/" not in opening[1]:
            return ThoughtFormat(opening[1], opening[1][0] + "/" + opening[1][1:])
    return next((thought for mark, thought in THOUGHTS if mark in source), None)
