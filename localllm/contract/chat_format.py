"""How a model writes thoughts and tool calls: facts read from its chat template, for parsers and for grammars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from localllm.contract.generation import Constraint

ToolChoice = Literal["none", "auto", "required"]

CallStyle = Literal["json", "tagged_json", "tagged_values", "pythonic"]


@dataclass(frozen=True, slots=True)
class ThoughtFormat:
    """A thought stands between ``open`` and ``close``, for instance ``<think>`` and ``</think>``."""

    open: str
    close: str


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How calls are written: ``section_open``, calls with ``separator`` between them, ``section_close``.

    A call is ``call_open``, the function's name and its arguments, ``call_close``. By ``style``, between those two:

    - ``json``: one JSON object with ``name_key`` and ``arguments_key`` (in that order; other keys, such as ``id_key``
      with a string that means nothing, may stand around them), or, where ``name_key`` is empty, ``{NAME: arguments}``.
      An array of calls has its brackets in ``section_open`` and ``section_close``, and its comma in ``separator``.
    - ``tagged_json``: NAME, ``name_close``, then the arguments as one JSON object. Where ``name_end`` is given, the
      name ends there, and what lies between it and ``name_close`` (an id, an index) means nothing.
    - ``tagged_values``: NAME, ``name_close``, then for each argument ``key_open`` KEY ``key_close`` VALUE
      ``value_close``. A string stands as it is (``string_open`` and ``string_close`` around it, where given), any other
      value as JSON. Where ``string_key_close`` is given, it stands in for ``key_close`` before a string.
    - ``pythonic``: ``NAME(key=literal, ...)`` with Python literals. ``name_close``, ``key_close``, ``string_open`` and
      ``string_close``, where given, stand in for the round bracket, the equals sign and the quotes.

    ``also_open`` are other ways in which models begin a call: read like ``call_open``, never asked for.
    All markers are text as the model writes it, control tokens written out. White space around markers may differ.
    """

    style: CallStyle
    call_open: str = ""
    call_close: str = ""
    section_open: str = ""
    section_close: str = ""
    separator: str = ""
    name_key: str = "name"
    arguments_key: str = "arguments"
    name_end: str = ""
    name_close: str = ""
    key_open: str = ""
    key_close: str = ""
    value_close: str = ""
    string_open: str = ""
    string_close: str = ""
    string_key_close: str = ""
    id_key: str = ""
    also_open: tuple[str, ...] = ()
    parallel: bool = True  # False: the template can't show more than one call in a message


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What a template (or a preset for its family) says of the messages that the model writes.

    ``content_open`` and ``content_close`` are markers that may stand before and behind what the model says; they are
    no part of it. ``source`` tells where that is known from: "template", "preset", "config" or "none".
    """

    thought: ThoughtFormat | None = None
    calls: CallFormat | None = None
    content_open: tuple[str, ...] = ()
    content_close: tuple[str, ...] = ()
    source: str = "none"
    name: str = ""  # of the preset, or of the family that the template looks like


@dataclass(frozen=True, slots=True)
class Tool:
    """One function that the model may call. ``parameters`` is its JSON schema."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ReplyRules:
    """How one reply is to be read.

    ``in_thought``: the prompt has opened a thought already. ``calls`` is None where no tool is offered: what looks like
    a call is then text. With ``parallel`` unset the reply ends behind its first call. ``thought_budget`` is how many
    tokens its thoughts may have before the engine ends them; None: as many as they like. ``content_open`` and
    ``content_close`` are as in :class:`ChatFormat`.
    """

    thought: ThoughtFormat | None = None
    in_thought: bool = False
    calls: CallFormat | None = None
    tools: tuple[Tool, ...] = ()
    parallel: bool = True
    thought_budget: int | None = None
    content_open: tuple[str, ...] = ()
    content_close: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A rendered conversation: its text, ready to be tokenised with control tokens read, and what goes for the reply.

    ``constraint`` holds the whole reply, thoughts and calls included; None: the model may write what it likes.
    ``warnings`` are sentences for the caller.
    """

    text: str
    reply: ReplyRules = ReplyRules()
    constraint: Constraint | None = None
    warnings: tuple[str, ...] = ()
