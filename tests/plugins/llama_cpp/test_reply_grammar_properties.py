"""Whatever is written under the grammar of a reply is read as what was asked for, and nothing is held that need not."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace

import jsonschema
from hypothesis import assume, given
from hypothesis import strategies as st

from localllm import ReplyRules, Tool
from localllm.engine.reply_reader import CallPart, ReplyReader, TextPart
from localllm_llama_cpp.call_grammar import openers, trigger
from localllm_llama_cpp.format_presets import PRESETS
from localllm_llama_cpp.reply_grammar import Opening
from tests.plugins.llama_cpp.families import FAMILIES, TOOLS
from tests.plugins.llama_cpp.grammar_kit import Reply, chat_of, markers_of, schema

CALLING = sorted(name for name, family in FAMILIES.items() if family.calls)
STRICT = tuple(replace(tool, strict=True) for tool in TOOLS)
NUMBER = schema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})

PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(PLAIN, st.sampled_from(["none", "open"]), st.booleans(), st.sampled_from(sorted({*PRESETS} - {"none"})))
def test_any_thought_may_be_thought_and_any_text_said(text: str, opening: Opening, as_tokens: bool, name: str) -> None:
    chat = PRESETS[name]
    words = {*markers_of(chat), *(map(trigger, openers(chat.calls)) if chat.calls else ())}
    assume(not any(word in text for word in words))  # with one of them it is no plain text
    reply = Reply(chat, opening=opening, content=NUMBER, choice="none", as_tokens=as_tokens)
    if chat.thought:
        opened = "" if opening == "open" else chat.thought.open
        assert reply.takes(f'{opened}{text}{chat.thought.close}{{"n": 1}}')
    free = Reply(chat, opening=opening, tools=STRICT, choice="auto", as_tokens=as_tokens)
    assert free.constraint is None or free.takes(text)


def random_reply(reply: Reply, seed: int, limit: int = 600) -> str | None:
    """A reply that the grammar allows, drawn token by token; None if it came to no end."""
    assert reply.constraint
    draw = random.Random(seed)
    state = reply.grammars.begin(reply.constraint)
    masks = reply.grammars.masks
    data = b""
    for _ in range(limit):
        if state.is_over:
            return data.decode()
        masks.fill([state])
        allowed = masks.allowed(0).tolist()
        likely = [token for token in allowed if token >= 256 or bytes([token]) in b'"}])>0123456789']
        token = draw.choice(likely if likely and draw.random() < 0.8 else allowed)
        if token in reply.texts.end_tokens:
            return data.decode()
        data += reply.texts.piece(token)
        state.take(token)
    return None


SMALL = (
    Tool(
        "get",
        {
            "type": "object",
            "properties": {"n": {"type": "integer"}, "s": {"enum": ["a", "b"]}},
            "required": ["n"],
            "additionalProperties": False,
        },
    ),
    Tool(
        "put-it",
        {
            "type": "object",
            "properties": {
                "ok": {"type": "boolean"},
                "t": {"type": "string"},
                "xs": {"type": "array", "items": {"type": "null"}},
            },
            "additionalProperties": False,
        },
    ),
)


@given(st.sampled_from(CALLING), st.sampled_from(["none", "open", "closed"]), st.booleans(), st.integers(0, 2**31))
def test_whatever_is_drawn_under_a_grammar_is_read_as_calls_with_right_arguments(
    name: str, opening: Opening, parallel: bool, seed: int
) -> None:
    chat = chat_of(name)
    reply = Reply(chat, opening=opening, tools=SMALL, parallel=parallel, as_tokens=True)
    text = random_reply(reply, seed)
    assume(text is not None)  # nearly all come to an end
    assert text is not None
    reader = ReplyReader(ReplyRules(chat.thought, opening == "open" and chat.thought is not None, chat.calls, SMALL))
    parts = reader.feed(text) + reader.finish()
    said = [part for part in parts if isinstance(part, TextPart) and part.region == "content" and part.text.strip()]
    assert said == [], text
    check_calls([part for part in parts if isinstance(part, CallPart)], text, parallel=parallel)


@given(st.sampled_from(CALLING), st.sampled_from(["none", "open", "closed"]), st.integers(0, 2**31))
def test_whatever_is_called_amid_text_has_right_arguments(name: str, opening: Opening, seed: int) -> None:
    chat = chat_of(name)
    reply = Reply(
        chat, opening=opening, tools=[replace(tool, strict=True) for tool in SMALL], choice="auto", as_tokens=True
    )
    text = random_reply(reply, seed) if reply.constraint else ""
    assume(text is not None)
    assert text is not None
    reader = ReplyReader(ReplyRules(chat.thought, opening == "open" and chat.thought is not None, chat.calls, SMALL))
    parts = reader.feed(text) + reader.finish()
    check_calls([part for part in parts if isinstance(part, CallPart)], text, parallel=True, at_least=0)


def check_calls(parts: Sequence[CallPart], text: str, *, parallel: bool, at_least: int = 1) -> None:
    arguments: dict[int, str] = {}
    names: dict[int, str] = {}
    for part in parts:
        names.setdefault(part.index, part.name or "")
        arguments[part.index] = arguments.get(part.index, "") + part.arguments
    assert len(names) >= at_least, text
    assert parallel or len(names) == 1, text
    for index, name in names.items():
        parameters = next(tool.parameters for tool in SMALL if tool.name == name)
        jsonschema.validate(json.loads(arguments[index]), parameters)
