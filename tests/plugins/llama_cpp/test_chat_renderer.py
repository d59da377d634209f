"""A chat request becomes a prompt that says all of it, and the rules by which the reply is read and held."""

from __future__ import annotations

import json
from typing import Any

import pytest

from localllm import ChatPrompt, Constraint, InvalidRequestError, ReplyRules, Tool
from localllm.testing.tiny_model import CHATML_TEMPLATE
from localllm_llama_cpp import chat_renderer as module
from localllm_llama_cpp.chat_renderer import describe_format
from localllm_llama_cpp.format_presets import HERMES, PRESETS
from tests.plugins.llama_cpp.chat_kit import (
    HISTORY,
    TOOLS,
    WORDS,
    assistant,
    call,
    family,
    renderer_of,
    result,
    system,
    tool,
    user,
)
from tests.plugins.llama_cpp.families import FAMILIES, THINK

RENDERED = sorted(set(FAMILIES) - {"broken"})
OPENED = {
    *("apriel", "deepseek_r1", "deepseek_r1_distill", "glm_4_7", "minimax_m2", "nemotron_3", "nemotron_nano"),
    *("qwen3_5", "qwq"),
}
SHOW_THOUGHTS = {
    *("apriel", "bielik", "command_r7b", "deepseek_v3_2", "gemma_4", "glm_4_6", "glm_4_7", "gpt_oss", "hunyuan"),
    *(
        "kimi_k2",
        "lfm2_5",
        "minicpm5",
        "minimax_m2",
        "minimax_m3",
        "nemotron_3",
        "qwen3",
        "qwen3_5",
        "seed_oss",
        "solar",
    ),
}
HI = (user("hi"),)
POSSIBLE = (
    Tool("get_weather", TOOLS[0]["function"]["parameters"], "Says how it is.", strict=True),
    Tool("set-alarm", TOOLS[1]["function"]["parameters"]),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the writer of grammars was asked for last; its answer is a regular expression and a warning."""
    seen: dict[str, Any] = {}

    def constrain(chat: object, **kwargs: object) -> tuple[Constraint, tuple[str, ...]]:
        seen.update(kwargs, chat=chat)
        return Constraint("regex", "whole"), ("Mind the gap.",)

    monkeypatch.setattr(module, "reply_constraint", constrain)
    return seen


@pytest.mark.parametrize("name", RENDERED)
def test_every_family_is_told_tools_calls_and_results(name: str) -> None:
    rendered = family(name).render(ChatPrompt(HISTORY, tools=TOOLS))
    assert [word for word in WORDS if word not in rendered.text] == []
    for offered in TOOLS:
        function = offered["function"]["name"]
        assert rendered.text.count(function) > 1, "once as a tool and once as a call"
    assert ("thoughtword" in rendered.text) == (name in SHOW_THOUGHTS)
    assert "None" not in rendered.text
    expected = FAMILIES[name]
    assert (rendered.reply.calls, rendered.reply.thought) == (expected.calls or HERMES, expected.thought)
    assert rendered.reply.tools == POSSIBLE
    assert rendered.reply.in_thought == (name in OPENED)


@pytest.mark.parametrize("name", RENDERED)
def test_without_tools_nothing_is_read_as_a_call(name: str) -> None:
    for prompt in (ChatPrompt(HISTORY), ChatPrompt(HISTORY, tools=TOOLS, tool_choice="none")):
        rendered = family(name).render(prompt)
        assert (rendered.reply.calls, rendered.reply.tools) == (None, ())
        assert [word for word in WORDS if word not in rendered.text] == []
        assert "Says how it is." not in rendered.text


def test_a_template_that_renders_nothing_says_so() -> None:
    with pytest.raises(InvalidRequestError, match="I render nothing"):
        family("broken").render(ChatPrompt(HI, tools=TOOLS))


def test_a_template_that_shows_no_tools_has_them_in_the_system_message() -> None:
    text = family("deepseek_r1").render(ChatPrompt((system("Be brief."), *HI), tools=TOOLS)).text
    assert text.startswith("<s><｜User｜>Be brief.\n\nYou can call functions.")  # noqa: RUF001
    chatml = renderer_of(CHATML_TEMPLATE).render(ChatPrompt(HI, tools=TOOLS)).text
    assert chatml.startswith("<|im_start|>system\nYou can call functions.")
    assert '<tool_call>\n{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}\n</tool_call>' in chatml


def test_a_format_that_no_reader_knows_is_never_shown() -> None:
    rendered = family("functionary_3_2").render(ChatPrompt(HISTORY, tools=TOOLS))
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bonncity"}}\n</tool_call>' in rendered.text
    assert ">>>get_weather" not in rendered.text


def test_the_model_is_told_what_templates_look_for_and_not_that_a_tool_is_strict() -> None:
    text = family("hermes").render(ChatPrompt(HI, tools=(tool("a", strict=True, parameters=None),))).text
    function = {"name": "a", "description": "", "parameters": {"type": "object", "properties": {}}}
    shown = text[text.index("{") : text.index("<|im_end|>")]
    assert json.loads(shown) == {"type": "function", "function": function}


def test_a_named_choice_shows_all_tools_and_allows_one(asked: dict[str, Any]) -> None:
    prompt = ChatPrompt(HI, tools=TOOLS, tool_choice="required", tool_name="set-alarm")
    rendered = family("hermes").render(prompt)
    assert rendered.text == family("hermes").render(ChatPrompt(HI, tools=TOOLS)).text
    assert rendered.reply.tools == POSSIBLE[1:]
    rendered = family("hermes").render(prompt)
    assert (asked["choice"], asked["tools"], asked["calls"]) == ("required", POSSIBLE[1:], HERMES)


def test_a_choice_of_a_tool_that_is_not_offered_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"'fly'.*get_weather, set-alarm") as caught:
        family("hermes").render(ChatPrompt(HI, tools=TOOLS, tool_choice="required", tool_name="fly"))
    assert caught.value.param == "tool_choice"


def test_what_is_asked_of_the_reply_reaches_its_rules_and_its_grammar(asked: dict[str, Any]) -> None:
    content = Constraint("json_object")
    prompt = ChatPrompt(HI, {"thinking": True}, tools=TOOLS, parallel_tool_calls=False, thought_budget=7)
    rendered = family("granite_3_3").render(prompt, content)
    preset = PRESETS["granite3"]
    assert rendered.reply == ReplyRules(
        THINK, False, preset.calls, POSSIBLE, False, 7, preset.content_open, preset.content_close
    )
    assert (rendered.constraint, rendered.warnings) == (Constraint("regex", "whole"), ("Mind the gap.",))
    assert (asked["choice"], asked["parallel"], asked["content"], asked["opening"]) == ("auto", False, content, "none")
    family("granite_3_3").render(ChatPrompt(HI))
    assert (asked["choice"], asked["calls"], asked["content"]) == ("none", None, None)


@pytest.mark.parametrize(
    ("name", "variables", "opening"),
    [
        ("qwq", {}, "open"),
        ("qwen3", {}, "none"),
        ("qwen3", {"enable_thinking": False}, "closed"),
        ("qwen3_5", {}, "open"),
        ("qwen3_5", {"enable_thinking": False}, "closed"),
        ("nemotron_3", {"enable_thinking": False}, "closed"),
        ("glm_4_7", {"enable_thinking": False}, "closed"),
        ("deepseek_v3", {}, "closed"),
        ("deepseek_v3", {"thinking": True}, "open"),
        ("gemma_4", {}, "closed"),
        ("gemma_4", {"enable_thinking": True}, "none"),
        ("command_r7b", {}, "closed"),
        ("gpt_oss", {}, "none"),
        ("gpt_oss", {"enable_thinking": False}, "closed"),
        ("granite_3_3", {}, "closed"),
        ("granite_3_3", {"thinking": True}, "none"),
        ("granite_3_3", {"thinking": False, "enable_thinking": False}, "closed"),
        ("minicpm5", {}, "closed"),
        ("hermes", {}, "none"),
        ("mistral_small", {}, "none"),
    ],
)
def test_it_is_known_whether_a_thought_has_begun_or_can_begin(
    asked: dict[str, Any], name: str, variables: dict[str, bool], opening: str
) -> None:
    rendered = family(name).render(ChatPrompt(HI, variables))
    assert asked["opening"] == opening
    assert rendered.reply.in_thought == (opening == "open")


def test_a_user_who_writes_the_end_of_a_thought_ends_none(asked: dict[str, Any]) -> None:
    source = "<think>{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"
    renderer_of(source).render(ChatPrompt((user("what is </think>"),)))
    assert asked["opening"] == "none"


@pytest.mark.parametrize(("name", "opening"), [("qwen3", "closed"), ("deepseek_v3", "closed"), ("qwq", "open")])
def test_a_budget_of_none_switches_thinking_off_where_there_is_a_switch(
    asked: dict[str, Any], name: str, opening: str
) -> None:
    rendered = family(name).render(ChatPrompt(HI, thought_budget=0))
    assert (asked["opening"], rendered.reply.thought_budget) == (opening, 0)


def test_what_the_caller_says_of_thinking_counts_more_than_the_budget(asked: dict[str, Any]) -> None:
    family("qwen3").render(ChatPrompt(HI, {"enable_thinking": True}, thought_budget=0))
    assert asked["opening"] == "none"


def test_two_calls_become_two_messages_where_one_is_all_that_a_template_takes() -> None:
    calls = assistant("Let me see.", call("get_weather", "Bonn", "a"), call("get_weather", "Ulm", "b"))
    text = family("llama_3").render(ChatPrompt((*HI, calls, result("Sun", "b"), result("Rain", "a")), tools=TOOLS)).text
    assert [text.index(word) for word in ("Bonn", "Rain", "Ulm", "Sun")] == sorted(
        text.index(word) for word in ("Bonn", "Rain", "Ulm", "Sun")
    )
    silent = family("gigachat").render(ChatPrompt((*HI, calls), tools=TOOLS)).text  # it would show the first one only
    assert "Bonn" in silent
    assert "Ulm" in silent


def test_ids_that_a_template_refuses_are_written_anew_the_same_for_call_and_result() -> None:
    refuse = "{% if ID is not string or ID | length != 9 %}{{ raise_exception('9 letters and digits!') }}{% endif %}"
    source = (
        "{% for m in messages %}{% for call in m.tool_calls or [] %}"
        + refuse.replace("ID", "call.id")
        + "[TOOL_CALLS]{{ call.function.name }}[CALL_ID]{{ call.id }}[ARGS]{{ call.function.arguments | tojson }}"
        + "{% endfor %}{% if m.role == 'tool' %}"
        + refuse.replace("ID", "m.tool_call_id")
        + "({{ m.tool_call_id }}){% endif %}{{ m.content }}</s>{% endfor %}"
    )
    rows = (*HI, assistant(None, call("get", "Bonn", "call_1234567890")), result("Rain", "call_1234567890"))
    text = renderer_of(source).render(ChatPrompt(rows)).text
    new_id = text[text.index("(") + 1 : text.index(")")]
    assert new_id.isalnum()
    assert f"[CALL_ID]{new_id}[ARGS]" in text
    assert renderer_of(source).render(ChatPrompt(rows)).text == text
    kept = (*HI, assistant(None, call("get", "Bonn", "abcDEF789")), result("Rain", "abcDEF789"))
    assert renderer_of(source).render(ChatPrompt(kept)).text.count("abcDEF789") == 2


def test_a_result_of_no_call_is_text_where_the_template_refuses_it() -> None:
    source = (
        "{% set ns = namespace(called=false) %}{% for m in messages %}{% if m.tool_calls %}{% set ns.called = true %}"
        "{% for call in m.tool_calls %}<call>{{ call.function | tojson }}</call>{% endfor %}"
        "{% elif m.role == 'tool' and not ns.called %}{{ raise_exception('there was no call!') }}"
        "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
    )
    text = renderer_of(source).render(ChatPrompt((*HI, result("Rain")))).text
    assert text == "<user>hi<user><tool_response>\nRain\n</tool_response>"


def test_words_beside_a_thought_and_a_call_join_the_thought_where_the_template_refuses_both() -> None:
    source = (
        "{% for m in messages %}{% if m.tool_calls and m.content and m.thinking %}{{ raise_exception('not both') }}"
        "{% endif %}{% if m.thinking %}<think>{{ m.thinking }}</think>{% endif %}{{ m.content }}"
        "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}{% endfor %}"
    )
    asks = assistant("I look.", call("get", "Bonn"), reasoning_content="Hm.")
    assert "<think>Hm.\n\nI look.</think><call>" in renderer_of(source).render(ChatPrompt((*HI, asks))).text


def test_a_format_is_described_for_people() -> None:
    assert describe_format(PRESETS["qwen3"]) == {
        "name": "qwen3",
        "source": "preset",
        "thought": {"open": "<think>", "close": "</think>"},
        "calls": {
            "style": "json",
            "example": '<tool_call>\n{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}\n</tool_call>',
        },
    }
    assert describe_format(PRESETS["none"]) == {"name": "none", "source": "preset", "thought": None, "calls": None}
