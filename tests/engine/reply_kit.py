"""Formats, tools and shortcuts for tests of the reply reader."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from localllm.contract.chat_format import CallFormat, ReplyRules, ThoughtFormat, Tool
from localllm.engine.reply_reader import CallPart, Part, ReplyReader, TextPart

THINK = ThoughtFormat("<think>", "</think>")
HERMES = CallFormat("json", call_open="<tool_call>\n", call_close="\n</tool_call>", separator="\n")
CODER = CallFormat(
    "tagged_values",
    call_open="<tool_call>\n<function=",
    name_close=">\n",
    key_open="<parameter=",
    key_close=">\n",
    value_close="\n</parameter>\n",
    call_close="</function>\n</tool_call>",
    separator="\n",
)
LLAMA = CallFormat("json", arguments_key="parameters", parallel=False)
NEMO = CallFormat("json", section_open="[TOOL_CALLS][", section_close="]", separator=", ", id_key="id")
MISTRAL = CallFormat("tagged_json", call_open="[TOOL_CALLS]", name_close="[ARGS]")
KIMI = CallFormat(
    "tagged_json",
    section_open="<|calls|>",
    call_open="<|call|>functions.",
    name_end=":",
    name_close="<|args|>",
    call_close="<|end_call|>",
    section_close="<|end_calls|>",
)
LFM = CallFormat("pythonic", section_open="<|calls|>[", section_close="]<|end|>", separator=", ")
GEMMA = CallFormat(
    "pythonic",
    call_open="<|tool_call>call:",
    name_close="{",
    key_close=":",
    string_open='<|"|>',
    string_close='<|"|>',
    call_close="<tool_call|>",
)
DSML = CallFormat(
    "tagged_values",
    section_open="<D|calls>\n",
    call_open='<D|invoke name="',
    name_close='">\n',
    key_open='<D|parameter name="',
    key_close='" string="false">',
    string_key_close='" string="true">',
    value_close="</D|parameter>\n",
    call_close="</D|invoke>\n",
    section_close="</D|calls>",
)
HARMONY = ReplyRules(
    thought=ThoughtFormat("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
    calls=CallFormat(
        "tagged_json",
        call_open=" to=functions.",
        name_end="<|channel|>",
        name_close="<|message|>",
        also_open=("<|channel|>commentary to=functions.",),
    ),
    tools=(Tool("get", {"type": "object"}),),
    content_open=("<|channel|>final<|message|>", "<|channel|>commentary<|message|>"),
    content_close=("<|end|><|start|>assistant", "<|return|>"),
)
FORMATS = {
    "hermes": HERMES,
    "coder": CODER,
    "llama": LLAMA,
    "nemo": NEMO,
    "mistral": MISTRAL,
    "kimi": KIMI,
    "lfm": LFM,
    "gemma": GEMMA,
    "dsml": DSML,
}
TOOLS = (
    Tool(
        "get",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "opts": {"type": "object"},
                "free": {},
                "maybe": {"type": ["string", "null"]},
            },
        },
    ),
    Tool("put-it"),
)


def rules(calls: CallFormat | None = None, *, thought: ThoughtFormat | None = THINK, in_thought: bool = False):
    return ReplyRules(thought, in_thought, calls, TOOLS if calls else ())


def joined(parts: Iterable[Part]) -> list[tuple[str, str]]:
    """Join neighbours: ("content" or "reasoning", text) and ("0 name", arguments). Checks how calls are told."""
    out: list[tuple[str, str]] = []
    n_calls = 0
    for part in parts:
        if isinstance(part, TextPart):
            assert part.text
            kind, text = part.region, part.text
        else:
            assert isinstance(part, CallPart)
            is_first = part.index == n_calls
            assert is_first == (part.name is not None), "the name comes once, with the first piece"
            assert part.index in (n_calls - 1, n_calls)
            n_calls += is_first
            kind, text = (f"{part.index} {part.name}" if is_first else out[-1][0]), part.arguments
            assert is_first or kind.startswith(f"{part.index} ")
        if out and out[-1][0] == kind:
            out[-1] = (kind, out[-1][1] + text)
        else:
            out.append((kind, text))
    return out


def read(reply_rules: ReplyRules, *pieces: str) -> list[tuple[str, str]]:
    reader = ReplyReader(reply_rules)
    return joined([part for piece in pieces for part in reader.feed(piece)] + reader.finish())


def read_everywhere(reply_rules: ReplyRules, text: str) -> list[tuple[str, str]]:
    """Read in one piece; check that character by character and every cut into two say the same."""
    whole = read(reply_rules, text)
    assert read(reply_rules, *text) == whole
    for cut in range(len(text)):
        assert read(reply_rules, text[:cut], text[cut:]) == whole, text[:cut]
    return whole


def cut(text: str, at: Sequence[int]) -> list[str]:
    borders = sorted({0, len(text), *(position % (len(text) + 1) for position in at)})
    return [text[start:end] for start, end in itertools.pairwise(borders)]
