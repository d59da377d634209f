"""Thoughts, told apart from answers for the official client against a real port, with the bundled demo model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from tests.real_models.conftest import running_server
from tests.real_models.weather_kit import (
    ANSWER,
    ARGUMENTS,
    CAPITAL,
    FIXED,
    GET_WEATHER,
    NAMED,
    PARIS,
    THINKING,
    ask,
    call,
    calls_of,
    result,
    stream,
)

pytestmark = [pytest.mark.real_model, pytest.mark.process]

CLOSING_TOKENS = 4  # a line end, the marker and two line ends, as far as a budget may be exceeded


@pytest.fixture
def client(server: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
        yield client


def chat(client: OpenAI, messages: list[Any] = CAPITAL, extra: dict[str, Any] = THINKING, **fields: Any) -> Any:
    return client.chat.completions.create(messages=messages, extra_body=extra, **{**FIXED, **fields})


def thought_of(choice: Any) -> str | None:
    """What a client looks for that knows thoughts."""
    return getattr(choice.message, "reasoning_content", None)


def reasoning_tokens(answer: Any) -> int:
    found: int = answer.usage.completion_tokens_details.reasoning_tokens
    return found


# --- thoughts and answers --------------------------------------------------------------------------------------------


def test_a_thought_stands_beside_the_answer(client: OpenAI) -> None:
    answer = chat(client)
    (choice,) = answer.choices
    thought = thought_of(choice)
    assert thought
    assert "think>" not in thought
    assert thought == thought.strip()
    assert (choice.message.content, choice.finish_reason) == (PARIS, "stop")
    assert 0 < reasoning_tokens(answer) < answer.usage.completion_tokens


def test_streamed(client: OpenAI) -> None:
    whole = chat(client)
    answer = stream(client, CAPITAL, extra_body=THINKING, stream_options={"include_usage": True})
    (choice,) = answer.choices
    assert choice.reasoning == thought_of(whole.choices[0])
    assert (choice.content, choice.finish_reason) == (PARIS, "stop")
    assert answer.usage is not None
    assert answer.usage["completion_tokens_details"] == {"reasoning_tokens": reasoning_tokens(whole)}
    kinds = [list(chunk["choices"][0]["delta"]) for chunk in answer.chunks if chunk["choices"]]
    assert kinds.count(["reasoning_content"]) > 3, "a thought comes as it is written"
    last_of_thought = max(index for index, kind in enumerate(kinds) if kind == ["reasoning_content"])
    assert kinds[1 : last_of_thought + 1] == [["reasoning_content"]] * last_of_thought


def test_streamed_asynchronously(server: Any) -> None:
    async def run() -> tuple[str, str]:
        thought, said = "", ""
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
            chunks = await client.chat.completions.create(messages=CAPITAL, stream=True, extra_body=THINKING, **FIXED)
            async for chunk in chunks:
                delta = chunk.choices[0].delta
                thought += getattr(delta, "reasoning_content", None) or ""
                said += delta.content or ""
        return thought, said

    thought, said = asyncio.run(run())
    assert thought
    assert said == PARIS


def test_two_choices(client: OpenAI) -> None:
    answer = chat(client, n=2)
    one = chat(client)
    assert [thought_of(choice) for choice in answer.choices] == [thought_of(one.choices[0])] * 2
    assert reasoning_tokens(answer) == 2 * reasoning_tokens(one)
    streamed = stream(client, CAPITAL, n=2, extra_body=THINKING).choices
    assert [(choice.reasoning, choice.content) for choice in streamed] == [(thought_of(one.choices[0]), PARIS)] * 2


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"enable_thinking": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"thinking": {"type": "disabled"}},
        {"reasoning": {"enabled": False}},
        {"reasoning_effort": "none"},
        {"thinking_budget": 0},
    ],
)
def test_without_thinking_there_is_no_thought(client: OpenAI, switch: dict[str, Any]) -> None:
    answer = chat(client, extra=switch)
    (choice,) = answer.choices
    assert (choice.message.content, thought_of(choice)) == (PARIS, None)
    assert reasoning_tokens(answer) == 0
    (streamed,) = stream(client, CAPITAL, extra_body=switch).choices
    assert (streamed.content, streamed.reasoning) == (PARIS, "")


@pytest.mark.parametrize(
    "switch",
    [
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"thinking": {"type": "enabled", "budget_tokens": 500}},
        {"reasoning": {"enabled": True}},
        {"reasoning": {"effort": "low"}},
    ],
)
def test_all_words_that_ask_for_thoughts(client: OpenAI, switch: dict[str, Any]) -> None:
    (choice,) = chat(client, extra=switch).choices
    assert thought_of(choice)
    assert choice.message.content == PARIS


@pytest.mark.parametrize("effort", ["minimal", "low", "medium", "high"])
def test_the_clients_own_word_for_it(client: OpenAI, effort: Any) -> None:
    (choice,) = chat(client, extra={}, reasoning_effort=effort).choices
    assert thought_of(choice)
    assert choice.message.content == PARIS


def test_a_thought_that_is_not_to_be_shown_is_counted(client: OpenAI) -> None:
    for hidden in ({"include_reasoning": False}, {"reasoning": {"exclude": True}}):
        answer = chat(client, extra={**THINKING, **hidden})
        (choice,) = answer.choices
        assert (choice.message.content, thought_of(choice)) == (PARIS, None)
        assert reasoning_tokens(answer) > 0
        (streamed,) = stream(client, CAPITAL, extra_body={**THINKING, **hidden}).choices
        assert (streamed.content, streamed.reasoning) == (PARIS, "")


@pytest.mark.parametrize("name", ["reasoning", "both"])
def test_the_name_of_the_field_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("LOCALLLM_PLUGIN_CHAT_REASONING_FIELD", name)
    with (
        running_server(tmp_path) as other,
        OpenAI(base_url=other.base_url, api_key="none", max_retries=0, timeout=50) as client,
    ):
        message = chat(client).choices[0].message
    found = {key: value for key, value in message.model_extra.items() if "reasoning" in key}
    assert list(found) == (["reasoning"] if name == "reasoning" else ["reasoning_content", "reasoning"])
    assert all(found.values())


# --- how long --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 3, 6, 500])
def test_a_budget_ends_the_thought_and_an_answer_follows(client: OpenAI, budget: int) -> None:
    free = chat(client)
    answer = chat(client, extra={**THINKING, "thinking_budget": budget})
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert choice.message.content == PARIS
    assert reasoning_tokens(answer) <= min(budget + CLOSING_TOKENS, reasoning_tokens(free))
    whole = thought_of(free.choices[0]) or ""
    assert whole.startswith(thought_of(choice) or "")
    (streamed,) = stream(client, CAPITAL, extra_body={**THINKING, "thinking_budget": budget}).choices
    assert (streamed.reasoning, streamed.content) == (thought_of(choice) or "", PARIS)


def test_max_tokens_may_end_a_thought_without_an_answer(client: OpenAI) -> None:
    answer = chat(client, max_tokens=6)
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("length", "")
    assert thought_of(choice)
    assert reasoning_tokens(answer) == answer.usage.completion_tokens == 6
    (streamed,) = stream(client, CAPITAL, extra_body=THINKING, max_tokens=6).choices
    assert (streamed.reasoning, streamed.content or "") == (thought_of(choice), "")


# --- together with schemas and tools ---------------------------------------------------------------------------------


class Fact(BaseModel):
    name: str = Field(max_length=8)
    kind: Literal["city", "country"]


def test_parse_with_thinking(client: OpenAI) -> None:
    """The schema holds from behind the thought on, and the thought is as free as ever."""
    for extra in (THINKING, {**THINKING, "thinking_budget": 4}):
        answer = client.chat.completions.parse(messages=CAPITAL, response_format=Fact, extra_body=extra, **FIXED)
        (choice,) = answer.choices
        assert isinstance(choice.message.parsed, Fact)
        free = thought_of(chat(client, extra=extra).choices[0])
        assert thought_of(choice) == free


def test_parse_of_a_stream_with_thinking(client: OpenAI) -> None:
    with client.chat.completions.stream(messages=CAPITAL, response_format=Fact, extra_body=THINKING, **FIXED) as events:
        (choice,) = events.get_final_completion().choices
    assert isinstance(choice.message.parsed, Fact)


def test_other_constraints_hold_behind_a_thought(client: OpenAI) -> None:
    extra = {**THINKING, "structured_outputs": {"choice": ["Rome", "Paris", "Oslo"]}}
    (choice,) = chat(client, extra=extra).choices
    assert choice.message.content == "Paris"
    assert thought_of(choice)


@pytest.mark.parametrize("choice", ["auto", "required", NAMED])
def test_a_thought_before_a_call(client: OpenAI, choice: Any) -> None:
    wanted: dict[str, Any] = {"tools": [GET_WEATHER], "tool_choice": choice}
    (whole,) = chat(client, ask(), **wanted).choices
    assert thought_of(whole)
    assert (calls_of(whole.message), whole.finish_reason) == ([("get_weather", ARGUMENTS)], "tool_calls")
    assert whole.message.content is None
    (streamed,) = stream(client, ask(), extra_body=THINKING, **wanted).choices
    assert (streamed.reasoning, streamed.content) == (thought_of(whole), None)
    assert streamed.called() == [("get_weather", ARGUMENTS)]


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_budget_before_a_call(client: OpenAI, choice: Any) -> None:
    extra = {**THINKING, "thinking_budget": 3}
    answer = chat(client, ask(), extra, tools=[GET_WEATHER], tool_choice=choice)
    (whole,) = answer.choices
    ((name, _),) = calls_of(whole.message)
    assert (name, whole.finish_reason) == ("get_weather", "tool_calls")
    assert reasoning_tokens(answer) <= 3 + CLOSING_TOKENS


def test_a_schema_and_tools_and_a_thought(client: OpenAI) -> None:
    """Either a call or content that matches: the model chooses."""
    for messages in (ask(), [*ask(), call(), result()]):
        answer = client.chat.completions.parse(
            messages=messages, response_format=Fact, tools=[_strict(GET_WEATHER)], extra_body=THINKING, **FIXED
        )
        (choice,) = answer.choices
        assert thought_of(choice)
        assert choice.message.tool_calls or isinstance(choice.message.parsed, Fact)


def _strict(tool: dict[str, Any]) -> Any:
    function = tool["function"]
    parameters = {**function["parameters"], "additionalProperties": False}
    return {"type": "function", "function": {**function, "parameters": parameters, "strict": True}}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_in_the_history(client: OpenAI, name: str) -> None:
    """The template shows those behind the last question: the prompt grows by them, under whichever name they come."""
    first = chat(client, ask(), tools=[GET_WEATHER]).choices[0]
    made = {**call(), name: thought_of(first)}
    answer = chat(client, [*ask(), made, result()], tools=[GET_WEATHER])
    bare = chat(client, [*ask(), call(), result()], tools=[GET_WEATHER])
    assert answer.usage.prompt_tokens > bare.usage.prompt_tokens + 5
    assert answer.choices[0].message.content == ANSWER


# --- together with the other fields ----------------------------------------------------------------------------------


def test_stop_strings_leave_thoughts_alone(client: OpenAI) -> None:
    free = thought_of(chat(client).choices[0]) or ""
    word = max(free.rstrip(".").split(), key=len)
    for stop in (word, [word, "\n", free[-1]]):
        (choice,) = chat(client, stop=stop).choices
        assert thought_of(choice) == free
        ends = [PARIS.index(text) for text in ([stop] if isinstance(stop, str) else stop) if text in PARIS]
        assert choice.message.content == PARIS[: min(ends, default=len(PARIS))]
        (streamed,) = stream(client, CAPITAL, extra_body=THINKING, stop=stop).choices
        assert (streamed.reasoning, streamed.content) == (free, choice.message.content)


def test_log_probabilities_are_those_of_the_answer(client: OpenAI) -> None:
    (choice,) = chat(client, logprobs=True, top_logprobs=2).choices
    assert "".join(entry.token for entry in choice.logprobs.content) == PARIS
    assert all(len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)
    (streamed,) = stream(client, CAPITAL, extra_body=THINKING, logprobs=True).choices
    assert "".join(streamed.tokens) == PARIS


def test_the_same_seed_thinks_the_same(client: OpenAI) -> None:
    fields: dict[str, Any] = {"temperature": 1.5, "seed": 11}
    first, second = (chat(client, **fields).choices[0] for _ in range(2))
    assert (thought_of(first), first.message.content) == (thought_of(second), second.message.content)


def test_a_message_that_was_begun_with_a_thought_goes_on(client: OpenAI) -> None:
    begun = {"role": "assistant", "content": "<think>\nThe user asks"}
    extra = {**THINKING, "continue_final_message": True, "add_generation_prompt": False}
    (choice,) = chat(client, [*CAPITAL, begun], extra).choices
    assert thought_of(choice)
    assert choice.message.content == PARIS


def test_a_thought_is_json_like_everything_else(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(messages=CAPITAL, extra_body=THINKING, **FIXED)
    body = json.loads(raw.text)
    assert set(body["choices"][0]["message"]) == {"role", "content", "refusal", "reasoning_content"}
