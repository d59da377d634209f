"""Whatever a client keeps of its conversations is rendered or refused, and goes on as it began."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm import ChatPrompt, InvalidRequestError
from tests.plugins.llama_cpp.chat_kit import TOOLS, Message, assistant, call, family, result, user
from tests.plugins.llama_cpp.families import FAMILIES

MANY = settings(max_examples=2000 if os.environ.get("LOCALLLM_TEST_FULL") else 200)

STEADY = (  # templates that write the beginning of a conversation the same, whatever follows
    *("bielik", "functionary_3_1", "gigachat", "gpt_oss", "granite_3_3", "granite_4", "hermes", "kimi_k2", "lfm2"),
    *("lfm2_5", "llama_3", "llama_4", "minicpm5", "minimax_m1", "phi_4_mini", "python_arguments", "qwen3"),
    *("qwen3_coder", "seed_oss", "smollm3", "solar", "functionary_3_2", "minimax_m3"),
)
LENIENT = ("hermes", "lfm2", "qwen3", "granite_4", "solar")  # take any order of roles

texts = st.text(max_size=8) | st.sampled_from(
    ["", "hi", "{{ x }}", "<think>", "</think>", "<tool_call>", "[TOOL_CALLS]"]
)
ids = (
    st.none()
    | st.sampled_from(["", "call_1", "abcDEF789", "é", "toolu_01ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    | st.text(max_size=3)
)
names = st.sampled_from(["get_weather", "set-alarm", "gone"])
arguments = st.one_of(
    *(st.none(), texts, st.dictionaries(texts, texts | st.integers() | st.none(), max_size=2)),
    st.sampled_from(['{"city": "Bonn"}', '{"city": ', "[1]", "null", '"x"', "{}"]),
)
functions = st.fixed_dictionaries({"name": names, "arguments": arguments})
calls = st.fixed_dictionaries({"type": st.just("function"), "function": functions}, optional={"id": ids})
CONTENT: dict[str, Any] = {"content": st.none() | texts}
messages = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user"]), "content": texts}),
    st.fixed_dictionaries(
        {"role": st.just("assistant")},
        optional={
            **CONTENT,
            "tool_calls": st.none() | st.lists(calls, max_size=3),
            "function_call": st.none() | functions,
            "reasoning_content": st.none() | texts,
            "reasoning": texts,
        },
    ),
    st.fixed_dictionaries({"role": st.just("tool")}, optional={**CONTENT, "tool_call_id": ids, "name": names}),
    st.fixed_dictionaries({"role": st.just("function"), "name": names}, optional=CONTENT),
)
prompts = st.builds(
    ChatPrompt,
    st.lists(messages, max_size=7).map(tuple),
    st.dictionaries(st.sampled_from(["enable_thinking", "thinking", "reasoning_effort"]), st.booleans() | texts),
    tools=st.sampled_from([(), TOOLS[:1], TOOLS]),
    tool_choice=st.sampled_from(["none", "auto", "required"]),
    tool_name=st.none() | names,
    continue_final_message=st.booleans(),
    thought_budget=st.sampled_from([None, 0, 5]),
)


@MANY
@given(st.sampled_from(sorted(FAMILIES)), prompts)
def test_any_history_is_rendered_or_refused(name: str, prompt: ChatPrompt) -> None:
    try:
        rendered = family(name).render(prompt)
    except InvalidRequestError as error:
        assert error.param in ("messages", "tool_choice", "continue_final_message")
    else:
        assert bool(rendered.reply.calls) == bool(prompt.tools and prompt.tool_choice != "none")


@MANY
@given(st.sampled_from(LENIENT), st.lists(messages, min_size=1, max_size=7))
def test_what_a_template_takes_is_rendered_in_full(name: str, history: list[Message]) -> None:
    text = family(name).render(ChatPrompt(tuple(history), tools=TOOLS)).text
    for message in history:
        if message["role"] in ("tool", "function", "user"):
            assert (message.get("content") or "") in text


words = st.text("abcdefgh", min_size=1, max_size=6)


@st.composite
def dialogues(draw: st.DrawFn) -> list[Message]:
    """A conversation as an agent has it: each question answered, perhaps after rounds of calls with their results."""
    history: list[Message] = [{"role": "system", "content": draw(words)}] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(1, 3))):
        history.append(user(draw(words)))
        for step in range(draw(st.integers(0, 2))):
            made = [f"call_{turn}_{step}_{n}" for n in range(draw(st.integers(1, 2)))]
            thought = {"reasoning_content": draw(words)} if draw(st.booleans()) else {}
            asks = [call(draw(st.sampled_from(["get_weather", "set-alarm"])), draw(words), name) for name in made]
            history.append(assistant(draw(st.none() | words), *asks, **thought))
            history += [result(draw(st.none() | words), name) for name in made]
        history.append(assistant(draw(words)))
    return [*history, user(draw(words))]


@MANY
@given(st.sampled_from(STEADY), dialogues())
def test_a_prompt_begins_with_the_one_before_it(name: str, history: list[Message]) -> None:
    before = ""
    for end, message in enumerate(history, start=1):
        goes_on = message["role"] == "tool" and end < len(history) and history[end]["role"] == "tool"
        if message["role"] in ("user", "tool") and not goes_on:
            text = family(name).render(ChatPrompt(tuple(history[:end]), tools=TOOLS)).text
            assert text.startswith(before)
            before = text
