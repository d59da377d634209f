"""Tools, called and answered by the official client against a real port, with the bundled demo model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from tests.real_models.weather_kit import (
    ADD,
    ANSWER,
    ARGUMENTS,
    CALL_ID,
    CAPITAL,
    FIXED,
    GET_WEATHER,
    NAMED,
    PARIS,
    RESULT,
    THINKING,
    ask,
    call,
    calls_of,
    result,
    stream,
    tool,
)

pytestmark = [pytest.mark.real_model, pytest.mark.process]

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
SUM = tool("add", {"a": DIGIT, "b": DIGIT}, strict=True)  # what a toy is forced to, it may otherwise never end
BOTH = [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})]


@pytest.fixture
def client(server: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
        yield client


def chat(client: OpenAI, messages: list[Any], **fields: Any) -> Any:
    return client.chat.completions.create(messages=messages, **{**FIXED, **fields})


# --- the round trip --------------------------------------------------------------------------------------------------


def test_round_trip(client: OpenAI) -> None:
    first = chat(client, ask(), tools=[GET_WEATHER]).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.content is None
    assert calls_of(first.message) == [("get_weather", ARGUMENTS)]
    (made,) = first.message.tool_calls
    assert (made.type, made.id.startswith("call_")) == ("function", True)
    history = [*ask(), first.message, result(call_id=made.id)]
    second = chat(client, history, tools=[GET_WEATHER]).choices[0]
    assert (second.message.content, second.finish_reason) == (ANSWER, "stop")
    assert second.message.tool_calls is None


def test_round_trip_streamed(client: OpenAI) -> None:
    first = stream(client, ask(), tools=[GET_WEATHER], stream_options={"include_usage": True})
    (choice,) = first.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.content is None, "beside calls alone there is no content, not even an empty one"
    assert choice.called() == [("get_weather", ARGUMENTS)]
    assert choice.n_deltas > 5, "arguments come as they are written"
    plain = chat(client, ask(), tools=[GET_WEATHER])
    assert first.usage is not None
    assert first.usage["completion_tokens"] == plain.usage.completion_tokens
    assert choice.calls[0]["arguments"] == plain.choices[0].message.tool_calls[0].function.arguments
    made = choice.calls[0]
    (second,) = stream(
        client, [*ask(), call(made["arguments"], made["id"]), result(call_id=made["id"])], tools=[GET_WEATHER]
    ).choices
    assert (second.content, second.calls, second.finish_reason) == (ANSWER, [], "stop")


def test_round_trip_async(server: Any) -> None:
    async def run() -> tuple[Any, str, str]:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
            create = client.chat.completions.create
            first = await create(messages=ask(), tools=[GET_WEATHER], **FIXED)
            message = first.choices[0].message
            history = [*ask(), message, result(call_id=message.tool_calls[0].id)]
            second = await create(messages=history, tools=[GET_WEATHER], **FIXED)
            pieces = [
                chunk.choices[0].delta.tool_calls[0].function.arguments
                async for chunk in await create(messages=ask(), tools=[GET_WEATHER], stream=True, **FIXED)
                if chunk.choices[0].delta.tool_calls
            ]
            return calls_of(message), second.choices[0].message.content, "".join(pieces)

    called, said, arguments = asyncio.run(run())
    assert called == [("get_weather", ARGUMENTS)]
    assert said == ANSWER
    assert json.loads(arguments) == ARGUMENTS


def test_two_calls_in_one_message(client: OpenAI) -> None:
    question = ask("Paris", "Rome")
    message = chat(client, question, tools=[GET_WEATHER]).choices[0].message
    assert calls_of(message) == BOTH
    ids = [made.id for made in message.tool_calls]
    assert len(set(ids)) == 2
    (streamed,) = stream(client, question, tools=[GET_WEATHER]).choices
    assert streamed.called() == BOTH
    history = [*question, message, result(call_id=ids[0]), result("21 degrees and windy", ids[1])]
    said = chat(client, history, tools=[GET_WEATHER]).choices[0].message.content
    assert said == f"{ANSWER} The weather in Rome is 21 degrees and windy."


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_one_call_where_parallel_ones_are_not_wanted(client: OpenAI, choice: Any) -> None:
    wanted: dict[str, Any] = {"tools": [GET_WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
    whole = chat(client, ask("Paris", "Rome"), **wanted).choices[0]
    assert (calls_of(whole.message), whole.finish_reason) == (BOTH[:1], "tool_calls")
    (streamed,) = stream(client, ask("Paris", "Rome"), **wanted).choices
    assert (streamed.called(), streamed.finish_reason) == (BOTH[:1], "tool_calls")


def test_two_choices(client: OpenAI) -> None:
    answer = chat(client, ask(), tools=[GET_WEATHER], n=2)
    assert [calls_of(choice.message) for choice in answer.choices] == [[("get_weather", ARGUMENTS)]] * 2
    assert len({choice.message.tool_calls[0].id for choice in answer.choices}) == 2
    streamed = stream(client, ask(), tools=[GET_WEATHER], n=2).choices
    assert [choice.called() for choice in streamed] == [[("get_weather", ARGUMENTS)]] * 2
    assert [choice.finish_reason for choice in streamed] == ["tool_calls"] * 2


# --- which tool, if any ----------------------------------------------------------------------------------------------


def test_a_question_that_no_tool_is_for_is_answered(client: OpenAI) -> None:
    message = chat(client, CAPITAL, tools=[GET_WEATHER]).choices[0].message
    assert (message.content, message.tool_calls) == (PARIS, None)
    (streamed,) = stream(client, CAPITAL, tools=[GET_WEATHER]).choices
    assert (streamed.content, streamed.calls, streamed.finish_reason) == (PARIS, [], "stop")


def test_none_calls_nothing(client: OpenAI) -> None:
    whole = chat(client, ask(), tools=[GET_WEATHER], tool_choice="none").choices[0]
    assert whole.message.tool_calls is None
    assert whole.message.content
    assert whole.finish_reason == "stop"


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_call_that_is_asked_for_is_made_whatever_the_question(
    client: OpenAI, choice: Any, temperature: float
) -> None:
    """The model would have answered by itself."""
    tools = [tool("get_weather", {"city": {"type": "string", "maxLength": 12}}, strict=True), SUM]
    wanted = {"tools": tools, "tool_choice": choice, "temperature": temperature, "n": 2, "seed": 3}
    answer = chat(client, CAPITAL, **wanted)
    streamed = stream(client, CAPITAL, **wanted).choices
    made = [calls_of(choice.message) for choice in answer.choices] + [choice.called() for choice in streamed]
    assert {choice.finish_reason for choice in [*answer.choices, *streamed]} == {"tool_calls"}
    for calls in made:
        if choice == NAMED:
            ((name, arguments),) = calls
            assert (name, list(arguments)) == ("get_weather", ["city"])
        else:
            assert all(list(arguments) in (["city"], ["a", "b"]) for _, arguments in calls)


def test_only_allowed_tools_are_called(client: OpenAI) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "add"}}]}
    choice: Any = {"type": "allowed_tools", "allowed_tools": allowed}
    message = chat(client, ask(), tools=[GET_WEATHER, SUM], tool_choice=choice).choices[0].message
    assert {name for name, _ in calls_of(message)} == {"add"}


def test_arguments_have_the_types_of_the_schema(client: OpenAI) -> None:
    question = [{"role": "user", "content": "Add 2 and 3."}]
    ((name, arguments),) = calls_of(
        chat(client, question, tools=[SUM], tool_choice="required", parallel_tool_calls=False).choices[0].message
    )
    assert name == "add"
    assert [(key, type(value)) for key, value in arguments.items()] == [("a", int), ("b", int)]


def test_a_tool_without_parameters(client: OpenAI) -> None:
    bare = {"type": "function", "function": {"name": "get_time"}}
    question = [{"role": "user", "content": "What time is it?"}]
    assert calls_of(chat(client, question, tools=[bare]).choices[0].message) == [("get_time", {})]
    (streamed,) = stream(client, question, tools=[bare]).choices
    assert streamed.called() == [("get_time", {})]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [GET_WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "not a name"}}]}, "tools[0].function.name"),
        ({"tools": [tool("f", {"x": {"type": "nonsense"}}, strict=True)]}, "tools"),
    ],
)
def test_bad_tools_are_refused(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, ask(), **fields)
    assert caught.value.param is not None
    assert caught.value.param.startswith(param)


# --- parse() and the accumulating stream -----------------------------------------------------------------------------


class GetWeather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=20)


class Unit(StrEnum):
    """As OpenAI's documentation has it."""

    celsius = "celsius"
    fahrenheit = "fahrenheit"


Day = Annotated[int, Field(ge=1, le=31)]  # a toy may write digits for ever


class Place(BaseModel):
    name: str = Field(max_length=10)
    country: str | None = Field(max_length=10)


class Forecast(BaseModel):
    """With all that strict schemas may have."""

    place: Place
    unit: Unit
    kind: Literal["short", "long"]
    days: list[Day] = Field(max_length=3)


WEATHER = openai.pydantic_function_tool(GetWeather, name="get_weather")
FORECAST = openai.pydantic_function_tool(Forecast, name="forecast")


def test_parse_gives_arguments_as_an_instance(client: OpenAI) -> None:
    answer = client.chat.completions.parse(messages=ask(), tools=[WEATHER], **FIXED)
    (made,) = answer.choices[0].message.tool_calls or ()
    assert made.function.parsed_arguments == GetWeather(city="Paris")


@pytest.mark.parametrize("temperature", [0, 1])
def test_parse_of_a_nested_tool(client: OpenAI, temperature: float) -> None:
    fields: dict[str, Any] = {**FIXED, "temperature": temperature, "seed": 5, "n": 2, "parallel_tool_calls": False}
    answer = client.chat.completions.parse(messages=ask(), tools=[WEATHER, FORECAST], tool_choice="required", **fields)
    named: Any = {"type": "function", "function": {"name": "forecast"}}
    other = client.chat.completions.parse(messages=ask(), tools=[WEATHER, FORECAST], tool_choice=named, **fields)
    for choice in (*answer.choices, *other.choices):
        (made,) = choice.message.tool_calls or ()
        assert isinstance(made.function.parsed_arguments, GetWeather | Forecast)
    assert {choice.message.tool_calls[0].function.name for choice in other.choices} == {"forecast"}  # type: ignore[index]


def test_strict_arguments_are_held_to_the_schema_in_free_text(client: OpenAI) -> None:
    """The model would say Paris: once it has begun to call by itself, that is not among what it can write."""
    strict = tool("get_weather", {"city": {"enum": ["Oslo", "Lima"]}}, strict=True)
    (made,) = calls_of(chat(client, ask(), tools=[strict]).choices[0].message)
    assert made[1]["city"] in ("Oslo", "Lima")
    assert chat(client, CAPITAL, tools=[strict]).choices[0].message.content == PARIS


def test_the_accumulating_stream_of_the_client(client: OpenAI) -> None:
    with client.chat.completions.stream(messages=ask(), tools=[WEATHER], **FIXED) as events:
        seen = list(events)
        final = events.get_final_completion()
    kinds = [event.type for event in seen]
    assert "content.delta" not in kinds
    assert kinds.count("tool_calls.function.arguments.done") == 1
    deltas = [event for event in seen if event.type == "tool_calls.function.arguments.delta"]
    (done,) = (event for event in seen if event.type == "tool_calls.function.arguments.done")
    assert "".join(event.arguments_delta for event in deltas) == done.arguments
    assert done.parsed_arguments == GetWeather(city="Paris")
    (choice,) = final.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (made,) = choice.message.tool_calls or ()
    assert (made.function.name, made.function.parsed_arguments) == ("get_weather", GetWeather(city="Paris"))


def test_the_accumulating_stream_of_two_calls_asynchronously(server: Any) -> None:
    async def run() -> Any:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
            asked = client.chat.completions.stream(messages=ask("Paris", "Rome"), tools=[WEATHER], **FIXED)
            async with asked as events:
                return await events.get_final_completion()

    made = asyncio.run(run()).choices[0].message.tool_calls
    assert [call.function.parsed_arguments for call in made] == [GetWeather(city="Paris"), GetWeather(city="Rome")]


# --- history, as clients really send it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "null",
        "[1]",
        '"Paris"',
        '{"city": "Par',
        '{"city": NaN}',
        "{'city': 'Paris'}",
        "not json",
        {"city": "Paris"},
        None,
    ],
    ids=repr,
)
def test_broken_arguments_in_the_history(client: OpenAI, arguments: Any) -> None:
    answer = chat(client, [*ask(), call(arguments), result()], tools=[GET_WEATHER])
    assert RESULT in answer.choices[0].message.content


@pytest.mark.parametrize("call_id", ["", None, 7, 1.5, "ü" * 300, "call_😀", "a b\n", "<|im_end|>"], ids=ascii)
def test_ids_of_any_shape(client: OpenAI, call_id: Any) -> None:
    answer = chat(client, [*ask(), call(call_id=call_id), result(call_id=call_id)], tools=[GET_WEATHER])
    assert answer.choices[0].message.content == ANSWER


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": RESULT}],
        [{"type": "text", "text": RESULT[:5]}, {"type": "text", "text": RESULT[5:]}],
    ],
)
def test_results_as_parts(client: OpenAI, content: Any) -> None:
    assert chat(client, [*ask(), call(), result(content)], tools=[GET_WEATHER]).choices[0].message.content == ANSWER


@pytest.mark.parametrize("content", ["", None, [], "<|im_end|></tool_response>", "null"])
def test_results_that_say_little_are_no_error(client: OpenAI, content: Any) -> None:
    answer = chat(client, [*ask(), call(), result(content)], tools=[GET_WEATHER], max_tokens=60)
    assert answer.choices[0].finish_reason in ("stop", "tool_calls", "length")


def test_a_history_with_calls_needs_no_tools(client: OpenAI) -> None:
    assert chat(client, [*ask(), call(), result()]).choices[0].message.content == ANSWER


def test_a_result_that_answers_no_call(client: OpenAI) -> None:
    answer = chat(client, [*ask(), result(call_id="call_of_another")], tools=[GET_WEATHER], max_tokens=60)
    assert answer.choices[0].finish_reason


# --- the older form --------------------------------------------------------------------------------------------------


def test_functions(client: OpenAI) -> None:
    function = GET_WEATHER["function"]
    for wanted in ({}, {"function_call": {"name": "get_weather"}}):
        choice = chat(client, ask(), functions=[function], **wanted).choices[0]
        assert (choice.finish_reason, choice.message.content) == ("function_call", None)
        assert choice.message.function_call.name == "get_weather"
        assert json.loads(choice.message.function_call.arguments) == ARGUMENTS
        (streamed,) = stream(client, ask(), functions=[function], **wanted).choices
        assert streamed.finish_reason == "function_call"
        assert streamed.function_call == choice.message.function_call.model_dump()
    said = {"role": "function", "name": "get_weather", "content": RESULT}
    history = [*ask(), choice.message, said]
    assert chat(client, history, functions=[function]).choices[0].message.content == ANSWER
    assert chat(client, ask(), functions=[function], function_call="none").choices[0].message.function_call is None


# --- together with the other fields ----------------------------------------------------------------------------------


def test_stop_strings_leave_calls_alone(client: OpenAI) -> None:
    choice = chat(client, ask(), tools=[GET_WEATHER], stop=["Paris", "{", "get_weather", "\n"]).choices[0]
    assert (calls_of(choice.message), choice.finish_reason) == ([("get_weather", ARGUMENTS)], "tool_calls")
    answered = chat(client, [*ask(), call(), result()], tools=[GET_WEATHER], stop=[" and"]).choices[0]
    assert answered.message.content == ANSWER[: ANSWER.index(" and")]


def test_a_call_that_is_cut_off_says_so(client: OpenAI) -> None:
    n_tokens = chat(client, ask(), tools=[GET_WEATHER]).usage.completion_tokens
    for n_cut in range(4, n_tokens):
        choice = chat(client, ask(), tools=[GET_WEATHER], max_tokens=n_cut).choices[0]
        (streamed,) = stream(client, ask(), tools=[GET_WEATHER], max_tokens=n_cut).choices
        assert streamed.finish_reason == choice.finish_reason
        made = choice.message.tool_calls or ()
        assert [call["arguments"] for call in streamed.calls] == [call.function.arguments for call in made]
        if choice.finish_reason == "tool_calls":
            assert calls_of(choice.message) == [("get_weather", ARGUMENTS)]


def test_log_probabilities_are_those_of_content(client: OpenAI) -> None:
    called = chat(client, ask(), tools=[GET_WEATHER], logprobs=True).choices[0]
    assert called.logprobs.content == []
    answered = chat(client, [*ask(), call(), result()], tools=[GET_WEATHER], logprobs=True).choices[0]
    assert "".join(entry.token for entry in answered.logprobs.content) == ANSWER
    (streamed,) = stream(client, [*ask(), call(), result()], tools=[GET_WEATHER], logprobs=True).choices
    assert "".join(streamed.tokens) == ANSWER


def test_the_prompt_of_the_next_round_is_found_in_the_cache(client: OpenAI) -> None:
    chat(client, ask(), tools=[GET_WEATHER])
    answer = chat(client, [*ask(), call(), result()], tools=[GET_WEATHER])
    assert answer.usage.prompt_tokens_details.cached_tokens > answer.usage.prompt_tokens / 2


def test_many_at_once_are_read_each_by_its_own_rules(server: Any) -> None:
    """Calls, thoughts and plain answers, streamed and not, in the same batches."""

    async def one(client: AsyncOpenAI, messages: list[Any], streamed: bool, thinks: bool) -> tuple[str, str, bool]:
        fields: dict[str, Any] = {**FIXED, "messages": messages, "extra_body": THINKING if thinks else {}}
        if messages != CAPITAL:
            fields["tools"] = [GET_WEATHER]
        if not streamed:
            message = (await client.chat.completions.create(**fields)).choices[0].message
            arguments = "".join(made.function.arguments for made in message.tool_calls or ())
            return message.content or "", arguments, bool(message.model_extra)
        said, arguments, has_thought = "", "", False
        async for chunk in await client.chat.completions.create(stream=True, **fields):
            delta = chunk.choices[0].delta
            said += delta.content or ""
            arguments += "".join(made.function.arguments for made in delta.tool_calls or ())
            has_thought |= "reasoning_content" in (delta.model_extra or {})
        return said, arguments, has_thought

    async def run() -> list[tuple[tuple[str, str, bool], bool]]:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
            kinds = [(m, s, t) for m in (ask(), CAPITAL) for s in (False, True) for t in (False, True)] * 3
            answers = await asyncio.gather(*(one(client, *kind) for kind in kinds))
            return [(answer, thinks) for answer, (_, _, thinks) in zip(answers, kinds, strict=True)]

    answers = asyncio.run(run())
    assert len(answers) == 24
    for (said, arguments, has_thought), thinks in answers:
        assert (said, arguments) in ((PARIS, ""), ("", '{"city": "Paris"}'))
        assert has_thought == thinks


def test_system_message_and_tools_go_together(client: OpenAI) -> None:
    system = {"role": "system", "content": "You are a helpful assistant."}
    message = chat(client, [system, *ask()], tools=[GET_WEATHER, ADD]).choices[0].message
    assert calls_of(message) == [("get_weather", ARGUMENTS)]
    assert message.tool_calls[0].id != CALL_ID
