"""How a model writes thoughts and calls is read from its template; what the template writes can be read back."""

from __future__ import annotations

import pytest

from localllm import ChatFormat, ModelLoadError, ReplyRules, ThoughtFormat
from localllm.engine.reply_reader import CallPart, ReplyReader, TextPart
from localllm_llama_cpp.format_detection import TemplateFormat, detect_format, preset, prompt_opens_thought
from localllm_llama_cpp.format_presets import FAMILIES as FAMILY_MARKS
from localllm_llama_cpp.format_presets import PRESETS
from localllm_llama_cpp.tool_messages import ToolCall, write_calls
from tests.plugins.llama_cpp.families import (
    CALLS,
    FAMILIES,
    PLAIN_CALLS,
    TEMPLATES,
    THINK,
    TOOLS,
    Call,
    Renderer,
    read_arguments,
)
from tests.plugins.llama_cpp.families import written_calls as written

SHOWN = sorted(name for name, family in FAMILIES.items() if family.calls and family.shows_calls)


def detect(name: str, **kwargs: str) -> TemplateFormat:
    render = Renderer(name)
    return detect_format(render.source, render, **kwargs)


def calls_in(rules: ReplyRules, pieces: list[str]) -> tuple[list[Call], str]:
    reader = ReplyReader(rules)
    parts = [part for piece in pieces for part in reader.feed(piece)] + reader.finish()
    names: list[str] = []
    arguments: list[str] = []
    for part in parts:
        if isinstance(part, CallPart):
            if part.name is not None:
                names.append(part.name)
                arguments.append("")
            arguments[part.index] += part.arguments
    text = "".join(part.text for part in parts if isinstance(part, TextPart))
    return [(name, read_arguments(text)) for name, text in zip(names, arguments, strict=True)], text


def test_every_template_has_its_expectation() -> None:
    assert sorted(path.stem for path in TEMPLATES.glob("*.jinja")) == sorted(FAMILIES)
    assert len(SHOWN) >= 25


def test_a_template_tells_whether_thinking_must_be_asked_for() -> None:
    asked = {name for name, family in FAMILIES.items() if family.thought and not detect(name).thinks_unasked}
    assert {"granite_3_3", "minicpm5", "deepseek_v3", "gemma_4"} <= asked
    assert not asked & {"qwen3", "qwq", "gpt_oss", "smollm3", "glm_4_6", "lfm2_5"}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_template_tells_its_format(name: str) -> None:
    family, found = FAMILIES[name], detect(name)
    assert found.format.calls == family.calls
    assert found.format.thought == family.thought
    assert found.format.source == family.source
    assert (found.shows_calls, found.shows_tools) == (family.shows_calls, family.shows_tools)
    assert found.arguments_as_text == family.arguments_as_text


@pytest.mark.parametrize("name", SHOWN)
def test_a_call_that_the_template_writes_is_read_back(name: str) -> None:
    found = detect(name).format
    rules = ReplyRules(found.thought, calls=found.calls, tools=TOOLS)
    for calls in (CALLS[:1], CALLS) if found.calls and found.calls.parallel else (CALLS[:1],):
        text = written(name, calls)
        expected = (list(calls), "")
        assert calls_in(rules, [text]) == expected
        assert calls_in(rules, list(text)) == expected
        for cut in range(len(text)):
            assert calls_in(rules, [text[:cut], text[cut:]]) == expected, text[:cut]


@pytest.mark.parametrize("name", SHOWN)
def test_calls_written_for_the_history_are_what_the_template_would_write(name: str) -> None:
    calls = detect(name).format.calls
    assert calls is not None
    made = PLAIN_CALLS[: 2 if calls.parallel else 1]
    ours = write_calls(calls, [ToolCall(*call, id="x1") for call in made])
    if calls.id_key or calls.name_end:  # the ids differ, and may stand elsewhere
        assert calls_in(ReplyRules(calls=calls, tools=TOOLS), [ours]) == (list(made), "")
    else:
        assert "".join(ours.split()) == "".join(written(name, made).split())


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"none", "apriel"}))
def test_calls_written_in_a_preset_are_read_back(name: str) -> None:
    known = PRESETS[name]
    assert known.calls is not None
    calls = CALLS[: 2 if known.calls.parallel else 1]
    text = write_calls(known.calls, [ToolCall(*call, id="0") for call in calls])
    rules = ReplyRules(known.thought, calls=known.calls, tools=TOOLS)
    assert calls_in(rules, [text]) == (list(calls), "")
    assert calls_in(rules, list(text)) == (list(calls), "")


def test_a_family_is_known_by_its_marks_alone_only_if_there_is_a_preset() -> None:
    assert {name for _, name in FAMILY_MARKS} <= set(PRESETS)


def test_a_setting_overrides_the_template() -> None:
    found = detect("qwen3", chat_format="llama3").format
    assert found.calls == PRESETS["llama3"].calls
    assert found.thought == THINK  # the preset says nothing of thoughts
    assert (found.source, found.name) == ("config", "llama3")
    assert detect("hermes", chat_format="none").format == ChatFormat(source="config", name="none")


def test_an_unknown_preset_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ModelLoadError, match=r"'qwen9' is not known; use one of .*hermes.*qwen3_coder"):
        preset("qwen9")


def test_results_of_calls_are_seen() -> None:
    assert detect("qwen3").shows_results
    assert not detect("broken").shows_results


@pytest.mark.parametrize(
    ("name", "variables", "opens"),
    [
        ("qwq", {}, True),
        ("qwen3", {}, False),
        ("qwen3", {"enable_thinking": False}, False),
        ("qwen3_5", {}, True),
        ("qwen3_5", {"enable_thinking": False}, False),
        ("nemotron_3", {"enable_thinking": False}, False),
        ("glm_4_7", {}, True),
        ("glm_4_7", {"enable_thinking": False}, False),
        ("deepseek_v3", {"thinking": True}, True),
        ("deepseek_v3", {}, False),
        ("apriel", {}, True),
        ("gemma_4", {}, False),
        ("hermes", {}, False),
    ],
)
def test_a_prompt_that_opens_a_thought_is_known(name: str, variables: dict[str, bool], opens: bool) -> None:
    render = Renderer(name)
    prompt = render([{"role": "user", "content": "hi"}], [], {"add_generation_prompt": True, **variables})
    assert prompt_opens_thought(prompt, detect(name).format.thought) is opens


def test_no_prompt_opens_a_thought_of_a_model_without_any() -> None:
    assert not prompt_opens_thought("<think>", None)
    assert not prompt_opens_thought("<think>", ThoughtFormat("", "</think>"))


def test_a_template_that_raises_anything_is_only_unknown() -> None:
    def render(*_: object) -> str:
        raise RecursionError

    assert detect_format("{{ nothing }}", render) == TemplateFormat(ChatFormat())


def test_a_template_that_writes_everything_everywhere_is_only_unknown() -> None:
    def render(messages: object, tools: object, variables: object) -> str:
        return f"{messages} {tools} {variables} {'[' * 5000}{'{' * 5000}" * 3

    assert detect_format("", render).format.calls is None
