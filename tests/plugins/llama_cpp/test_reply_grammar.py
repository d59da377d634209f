"""One grammar holds a whole reply: its thought, then calls, content or text that goes on as a call."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from localllm import CallFormat, ChatFormat, Constraint, ReplyRules, ThoughtFormat, Tool
from localllm.engine.reply_reader import CallPart, ReplyReader
from localllm_llama_cpp.format_presets import PRESETS
from localllm_llama_cpp.reply_grammar import Opening, reply_constraint
from localllm_llama_cpp.tool_messages import ToolCall, write_calls
from tests.plugins.llama_cpp.families import CALLS, FAMILIES, TOOLS, written_calls
from tests.plugins.llama_cpp.grammar_kit import Reply, chat_of, schema

CALLING = sorted(name for name, family in FAMILIES.items() if family.calls)
THINKING = [name for name in CALLING if FAMILIES[name].thought]
STRICT = tuple(replace(tool, strict=True) for tool in TOOLS)
CALL = [ToolCall(*call, id="c1") for call in CALLS]
NUMBER = schema(
    {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
)
HERMES = PRESETS["qwen3"]


def call_text(name: str) -> str:
    """One call as the family's template writes it, or as it would."""
    family = FAMILIES[name]
    assert family.calls
    return written_calls(name, CALLS[:1]).rstrip() if family.shows_calls else write_calls(family.calls, CALL[:1])


def thoughts(chat: ChatFormat, opening: Opening) -> list[str]:
    """What may stand before the rest of a reply."""
    if chat.thought is None or opening == "closed":
        return [""]
    opened = "" if opening == "open" else chat.thought.open
    written = [f"{opened}I'd {{call}} it.\n{chat.thought.close}{behind}" for behind in ("", "\n\n")]
    return [*written, f"{chat.thought.open}{written[0]}"] if opening == "open" else ["", *written]


def wrong(text: str) -> list[str]:
    """Calls that are none of what was offered."""
    return [
        text.replace("get_weather", "get_money"),
        text.replace("city", "town"),
        text.replace("6", "none"),
        text[: len(text) // 2],
    ]


@pytest.mark.parametrize("opening", ["closed", "none", "open"])
@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize("name", CALLING)
def test_a_required_call_is_all_that_may_follow_a_thought(name: str, as_tokens: bool, opening: Opening) -> None:
    chat, text = chat_of(name), call_text(name)
    reply = Reply(chat, opening=opening, tools=TOOLS, as_tokens=as_tokens)
    assert reply.warnings == ()
    for thought in thoughts(chat, opening):
        assert reply.takes(thought + text)
        assert not any(reply.takes(thought + bad) for bad in (*wrong(text), "", "It rains.", "Look: " + text))
    assert chat.thought is None or opening != "open" or not reply.takes(text.replace("get_weather", "get_money"))


@pytest.mark.parametrize("opening", ["none", "open"])
@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize("name", [name for name in THINKING if name != "gpt_oss"])
def test_a_call_ends_a_thought_that_is_open(name: str, as_tokens: bool, opening: Opening) -> None:
    """Whoever reads the reply takes it for a call there, too."""
    chat, text = chat_of(name), call_text(name)
    assert chat.thought
    assert chat.calls
    thought = ("" if opening == "open" else chat.thought.open) + "I'd call it. "
    reader = ReplyReader(ReplyRules(chat.thought, opening == "open", chat.calls, TOOLS))
    parts = reader.feed(thought + text) + reader.finish()
    assert any(isinstance(part, CallPart) for part in parts)
    for tools, choice in ((TOOLS, "required"), (STRICT, "auto")):
        reply = Reply(chat, opening=opening, tools=tools, choice=choice, as_tokens=as_tokens)  # type: ignore[arg-type]
        assert reply.takes(thought + text)
        assert not any(reply.takes(thought + bad) for bad in wrong(text))


@pytest.mark.parametrize("opening", ["closed", "none", "open"])
@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize("name", CALLING)
def test_beside_calls_content_is_held_to_what_the_caller_asked_for(
    name: str, as_tokens: bool, opening: Opening
) -> None:
    chat, text = chat_of(name), call_text(name)
    reply = Reply(chat, opening=opening, tools=TOOLS, choice="auto", content=NUMBER, as_tokens=as_tokens)
    for thought in thoughts(chat, opening):
        for content in ('{"n": 5}', *(mark + '{"n": 5}' for mark in chat.content_open)):
            assert reply.takes(thought + content)
        assert reply.takes(thought + text)
        assert not any(
            reply.takes(thought + bad) for bad in ('{"n": "x"}', "It rains.", '{"n": 5}' + text, *wrong(text))
        )


@pytest.mark.parametrize("opening", ["closed", "none", "open"])
@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize("name", [name for name in CALLING if not name.startswith("llama_")])
def test_where_a_call_begins_in_free_text_it_is_held_to_its_schema(
    name: str, as_tokens: bool, opening: Opening
) -> None:
    chat, text = chat_of(name), call_text(name)
    reply = Reply(chat, opening=opening, tools=STRICT, choice="auto", as_tokens=as_tokens)
    assert chat.calls
    for thought in thoughts(chat, opening):
        for content in ("", "It rains. 5 < 6 [sic] {\n\n", *(mark + "It rains." for mark in chat.content_open)):
            assert reply.takes(thought + content)
            assert reply.takes(thought + content + text)
            assert not any(reply.takes(thought + content + bad) for bad in wrong(text))
    assert reply.takes(text + "\nThat is it.") is chat.calls.parallel
    assert reply.takes(text + "\n" + text) is chat.calls.parallel
    alone = Reply(chat, opening=opening, tools=STRICT, choice="auto", parallel=False, as_tokens=as_tokens)
    assert alone.takes("Well: " + text)
    assert not alone.takes(text + "\n" + text)


@pytest.mark.parametrize("name", ["kimi_k2", "deepseek_v3", "minimax_m2", "deepseek_v3_2", "hunyuan"])
def test_a_call_without_its_section_is_held_to_its_schema(name: str) -> None:
    """Models forget to open it, and whoever reads the reply takes that for a call."""
    calls = FAMILIES[name].calls
    assert calls
    text = write_calls(replace(calls, section_open="", section_close=""), CALL[:1]).rstrip()
    reply = Reply(chat_of(name), tools=STRICT, choice="auto")
    assert reply.takes("Well: " + text)
    assert not any(reply.takes("Well: " + bad) for bad in wrong(text))


@pytest.mark.parametrize("name", ["llama_3", "llama_4"])
def test_strict_tools_whose_calls_look_like_text_come_with_a_warning(name: str) -> None:
    found, (warning,) = reply_constraint(
        chat_of(name),
        opening="none",
        calls=FAMILIES[name].calls,
        tools=STRICT,
        choice="auto",
        parallel=True,
        content=None,
    )
    assert found is None
    assert "only where a call is required" in warning


@pytest.mark.parametrize(
    ("tools", "choice"), [((), "auto"), ((), "required"), (TOOLS, "none"), (STRICT, "none"), (TOOLS, "auto")]
)
def test_replies_that_nothing_is_asked_of_are_free(tools: tuple[Tool, ...], choice: Any) -> None:
    assert Reply(HERMES, opening="none", tools=tools, choice=choice).constraint is None


def test_tools_that_no_format_can_call_hold_nothing() -> None:
    for calls, tools in ((None, STRICT), (HERMES.calls, ())):
        found, warnings = reply_constraint(
            HERMES, opening="none", calls=calls, tools=tools, choice="required", parallel=True, content=NUMBER
        )
        assert found
        assert found.parts == (NUMBER,)
        assert warnings == ()


KINDS = [
    (Constraint("json_object"), ['{"a": [1]}'], ["[1]", "x"]),
    (NUMBER, ['{"n": 1}'], ['{"n": true}', "{}"]),
    (schema({"not": {}, "type": "integer"}, strict=False), ["12"], ["x"]),
    (Constraint("regex", "[a-c]+x?"), ["abx"], ["", "xa"]),
    (Constraint("choice", '["red", "\\"\\n"]'), ["red", '"\n'], ["re"]),
    (Constraint("lark", 'start: "a" b*\nb: /[0-9]/\nbody: "unused"'), ["a12"], ["", "1"]),
    (Constraint("gbnf", 'root ::= "a" root?'), ["aaa"], ["", "b"]),
    (Constraint("gbnf", 'root ::= "a" [b-d]+'), ["acd"], ["", "b"]),
    (
        Constraint(
            "structural_tag",
            json.dumps({"structures": [{"begin": "<f>", "schema": {"enum": [1]}, "end": "</f>"}], "triggers": ["<f"]}),
        ),
        ["so <f>1</f>.", ""],
        ["<f>2</f>"],
    ),
]


@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize(("content", "right", "bad"), KINDS)
def test_every_kind_of_constraint_holds_behind_a_thought(
    content: Constraint, right: list[str], bad: list[str], as_tokens: bool
) -> None:
    for chat in (HERMES, PRESETS["command_r7b"], PRESETS["apriel"], PRESETS["gemma4"]):
        for opening in ("none", "open"):
            reply = Reply(chat, opening=opening, content=content, choice="none", as_tokens=as_tokens)  # type: ignore[arg-type]
            assert reply.constraint
            assert reply.constraint.parts == (content,)
            for thought in thoughts(chat, opening):  # type: ignore[arg-type]
                assert all(reply.takes(thought + text) for text in right)
                assert not any(reply.takes(thought + text) for text in bad)
            assert chat.thought
            assert not reply.takes("" if opening == "none" else chat.thought.close) or "" in right
            assert any("not" in text for text in reply.warnings) is (not content.strict)


@pytest.mark.parametrize("opening", ["none", "open", "closed"])
def test_content_that_no_thought_can_precede_is_held_as_if_there_were_no_chat(opening: Opening) -> None:
    for chat in (ChatFormat(), PRESETS["hermes"], HERMES if opening == "closed" else PRESETS["llama3"]):
        assert Reply(chat, opening=opening, content=NUMBER, choice="none").constraint is NUMBER


@pytest.mark.parametrize("name", ["command_r7b", "granite3"])
@pytest.mark.parametrize("as_tokens", [False, True])
def test_marks_may_stand_around_content(name: str, as_tokens: bool) -> None:
    chat = PRESETS[name]
    for opening in ("none", "closed"):
        reply = Reply(chat, opening=opening, content=NUMBER, choice="none", as_tokens=as_tokens)  # type: ignore[arg-type]
        for opened in ("", *chat.content_open):
            for closed in ("", *chat.content_close):
                assert reply.takes(f'{opened}{{"n": 1}}{closed}')
        assert not reply.takes(f"{chat.content_open[0]}It rains.{chat.content_close[0]}")


HARMONY = PRESETS["harmony"]
RETURN, CALL_END = "<|return|>", "<|call|>"
ANALYSIS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
TO = "to=functions.set-alarm"
NOTE = '{"note": "x"}'


@pytest.mark.parametrize("thought", ["", ANALYSIS])
@pytest.mark.parametrize(
    ("call", "right"),
    [
        (f" {TO}<|channel|>commentary json<|message|>{NOTE}", True),
        (f"<|channel|>commentary {TO} <|constrain|>json<|message|>{NOTE}", True),
        (f"<|channel|>commentary {TO}<|message|>{NOTE}", True),
        (f" {TO}<|channel|>commentary <|constrain|>json<|message|>{NOTE}", True),
        (f" {TO}<|channel|>{'c' * 40}<|constrain|>{'j' * 10}<|message|>{NOTE}", True),
        (f" {TO}<|channel|>{'c' * 40}<|constrain|>{'j' * 11}<|message|>{NOTE}", False),
        (f"<|channel|>commentary {TO} <|constrain|>json<|message|>{{}}", False),
        (f"<|channel|>commentary to=functions.other <|constrain|>json<|message|>{NOTE}", False),
    ],
)
def test_every_way_of_harmony_to_call_is_held(thought: str, call: str, right: bool) -> None:
    """Its calls end by a token that ends the reply: the grammar is complete before it."""
    markers = {"as_tokens": True, "ends": (RETURN, CALL_END)}
    chat = replace(HARMONY, content_open=(*HARMONY.content_open, "<|constrain|>"))  # so that it is a token
    for choice, tools in (("required", TOOLS), ("auto", STRICT)):
        reply = Reply(chat, opening="none", tools=tools, choice=choice, **markers)  # type: ignore[arg-type]
        assert reply.takes(thought + call) is right
        reader = ReplyReader(ReplyRules(HARMONY.thought, False, HARMONY.calls, TOOLS))
        names = [part.name for part in reader.feed(thought + call) if isinstance(part, CallPart) and part.name]
        assert names == ([] if "other" in call else ["set-alarm"])
        reply = Reply(chat, opening="none", tools=TOOLS, choice="auto", content=NUMBER, **markers)  # type: ignore[arg-type]
        assert reply.takes(thought + call) is right


def test_harmony_says_what_it_says_in_channels() -> None:
    markers = {"as_tokens": True, "ends": (RETURN, CALL_END), "opening": "none"}
    final = "<|channel|>final<|message|>"
    reply = Reply(HARMONY, content=NUMBER, choice="none", **markers)  # type: ignore[arg-type]
    for thought in ("", ANALYSIS):
        assert reply.takes(thought + final + '{"n": 1}')
        assert not reply.takes(thought + final + "It rains.")
        assert not reply.takes(thought + final + '{"n": 1}<|end|><|start|>assistant')
    free = Reply(HARMONY, tools=STRICT, choice="auto", **markers)  # type: ignore[arg-type]
    preamble = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    assert free.takes(ANALYSIS + preamble + ANALYSIS + final + "It rains.")
    assert free.takes(ANALYSIS + preamble + f"<|channel|>commentary {TO} <|message|>{NOTE}")


def test_a_thought_whose_end_ends_the_reply_is_not_waited_for() -> None:
    chat = ChatFormat(ThoughtFormat("<|think|>", "<|end|>"))
    assert (
        Reply(chat, opening="none", content=NUMBER, choice="none", as_tokens=True, ends=("<|end|>",)).constraint
        is NUMBER
    )


def test_a_reply_ends_by_itself_only_where_nothing_may_follow() -> None:
    reply = Reply(HERMES, opening="none", tools=TOOLS, parallel=False)
    text = write_calls(HERMES.calls or CallFormat("json"), CALL[1:])

    def is_over(reply: Reply) -> bool:
        assert reply.constraint
        state = reply.grammars.begin(reply.constraint)
        for token in text.encode():
            assert not state.is_over
            state.take(token)
        assert state.allows(reply.texts.eos_token_id) or state.is_over
        return state.is_over

    assert is_over(reply)
    assert not is_over(Reply(HERMES, opening="none", tools=TOOLS))
    assert not is_over(Reply(HERMES, opening="none", tools=STRICT, choice="auto"))


@pytest.mark.parametrize("as_tokens", [False, True])
@pytest.mark.parametrize("name", [name for name in CALLING if not name.startswith(("llama_", "gpt_oss"))])
def test_content_that_may_be_anything_is_no_way_around_thoughts_and_calls(name: str, as_tokens: bool) -> None:
    anything = Constraint("regex", r"(.|\n)*")
    chat, text = chat_of(name), call_text(name)
    reply = Reply(chat, opening="none", tools=STRICT, choice="auto", content=anything, as_tokens=as_tokens)
    for thought in thoughts(chat, "none"):
        assert reply.takes(thought + "It rains.")
        if not thought.endswith("\n"):  # which any text may begin with, and go on
            assert reply.takes(thought + text)
            assert not any(reply.takes(thought + bad) for bad in wrong(text))
