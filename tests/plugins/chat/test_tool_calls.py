"""Tools and thoughts over HTTP: what reaches the model, what comes back, in the official client's own words too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

import localllm_chat
from localllm import CallDelta, ChatPrompt, Chunk
from localllm.testing.app import InProcessServer, ScriptedModels, serve_in_process
from localllm_chat.settings import ChatSettings

PATH = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
BODY: dict[str, Any] = {"messages": HELLO, "tools": [WEATHER]}
ANSWER = (
    Chunk(0, "A city. ", 2, region="reasoning"),
    CallDelta(0, 0, "weather", '{"city"', 3),
    CallDelta(0, 0, None, ': "Paris"}', 3),
    CallDelta(0, 1, "clock", "", 2),
)
WEATHER_CALL = ("weather", '{"city": "Paris"}')


@pytest.fixture
def models() -> ScriptedModels:
    models = ScriptedModels()
    models.model.answers.extend([ANSWER, ANSWER])
    return models


@pytest.fixture
def server(make_server: Any, models: ScriptedModels) -> Any:
    return make_server(localllm_chat, models=models)


def test_localllm_config_section_names_the_field_of_thoughts() -> None:
    assert localllm_chat.localllm_config_section() is ChatSettings
    assert ChatSettings().reasoning_field == "reasoning_content"


def test_whole_answer(server: Any) -> None:
    body = server.post(PATH, {**BODY, "n": 2, "tool_choice": "required", "thinking_budget": 9}).json
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}
    for choice in body["choices"]:
        message = choice["message"]
        made = [tuple(call["function"].values()) for call in message["tool_calls"]]
        assert made == [WEATHER_CALL, ("clock", "{}")]
        assert (message["content"], message["reasoning_content"], message["refusal"]) == (None, "A city. ", None)
        assert choice["finish_reason"] == "tool_calls"
    ids = [call["id"] for choice in body["choices"] for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 4
    (request,) = server.client.requests
    assert request.prompt == ChatPrompt(tuple(HELLO), tools=(WEATHER,), tool_choice="required", thought_budget=9)


def test_the_older_form(server: Any) -> None:
    body = {"messages": HELLO, "functions": [WEATHER["function"]], "function_call": {"name": "weather"}}
    (choice,) = server.post(PATH, body).json["choices"]
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert choice["finish_reason"] == "function_call"
    events = server.post(PATH, {**body, "stream": True}).events
    parts = [part for event in events if (part := event["choices"][0]["delta"].get("function_call"))]
    assert parts[0] == {"name": "weather", "arguments": ""}
    assert "".join(part["arguments"] for part in parts) == '{"city": "Paris"}'
    assert events[-1]["choices"][0]["finish_reason"] == "function_call"
    prompt = server.client.requests[0].prompt
    assert (prompt.tool_name, prompt.parallel_tool_calls, prompt.tools) == ("weather", False, (WEATHER,))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "both"])
def test_the_field_of_thoughts_is_a_setting(make_server: Any, models: ScriptedModels, field: str) -> None:
    server = make_server(localllm_chat, models=models, reasoning_field=field)
    names = ["reasoning_content", "reasoning"] if field == "both" else [field]
    message = server.post(PATH, BODY).json["choices"][0]["message"]
    assert [name for name in message if name.startswith("reasoning")] == names
    deltas = [event["choices"][0]["delta"] for event in server.post(PATH, {**BODY, "stream": True}).events]
    assert dict.fromkeys(names, "A city. ") in deltas


@pytest.mark.parametrize("fields", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
@pytest.mark.parametrize("stream", [False, True])
def test_hidden_thoughts_are_counted(server: Any, fields: dict[str, Any], stream: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = server.post(PATH, {**BODY, **fields, **options})
    assert b"A city." not in answer.body
    body = answer.events[-1] if stream else answer.json
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


# --- the official client ---------------------------------------------------------------------------------------------


class Weather(BaseModel):
    """The weather of a city."""

    city: str


Talk = Callable[[openai.AsyncOpenAI, InProcessServer], Awaitable[None]]


@pytest.fixture
def with_client(tmp_path: Path) -> Iterator[Callable[[Talk], None]]:
    """Let the official client talk to a whole server, in process."""

    async def serve(talk: Talk) -> None:
        async with serve_in_process({"chat": localllm_chat}, tmp_path) as server:
            transport: Any = server.client  # the client's own type differs by its version
            client = openai.AsyncOpenAI(
                base_url="http://localhost/v1", api_key="none", max_retries=0, http_client=transport
            )
            await talk(client, server)

    yield lambda talk: asyncio.run(serve(talk))


STRICT = openai.pydantic_function_tool(Weather, name="weather")


def test_client_parses_strict_arguments(with_client: Any) -> None:
    async def talk(client: openai.AsyncOpenAI, server: InProcessServer) -> None:
        server.model.answers.append(ANSWER)
        answer = await client.chat.completions.parse(model="scripted", messages=HELLO, tools=[STRICT], n=2)
        for choice in answer.choices:
            calls = choice.message.tool_calls
            assert calls is not None
            assert [call.function.parsed_arguments for call in calls] == [Weather(city="Paris"), None]
            assert (choice.message.content, choice.message.refusal, choice.finish_reason) == (None, None, "tool_calls")
        (request,) = server.model.requests
        assert isinstance(request.prompt, ChatPrompt)
        assert request.prompt.tools[0]["function"]["strict"] is True

    with_client(talk)


def test_client_adds_up_a_stream(with_client: Any) -> None:
    async def talk(client: openai.AsyncOpenAI, server: InProcessServer) -> None:
        server.model.answers.append(ANSWER)
        done = []
        async with client.chat.completions.stream(model="scripted", messages=HELLO, tools=[STRICT], n=2) as stream:
            async for event in stream:
                if event.type == "tool_calls.function.arguments.done":
                    done.append((event.index, event.name, event.arguments))
            answer = await stream.get_final_completion()
        expected = [(0, *WEATHER_CALL), (1, "clock", "{}")]
        assert sorted(done) == sorted([*expected, *expected])
        for choice in answer.choices:
            calls = choice.message.tool_calls
            assert calls is not None
            assert [(call.function.name, call.function.arguments) for call in calls] == [call[1:] for call in expected]
            assert calls[0].function.parsed_arguments == Weather(city="Paris")
            assert (choice.message.content, choice.finish_reason) == (None, "tool_calls")
            assert getattr(choice.message, "reasoning_content", None) == "A city. "

    with_client(talk)


def test_client_sends_its_own_messages_back(with_client: Any) -> None:
    """A round trip: the message with the calls, as the client dumps it, then their results, then the answer."""

    async def talk(client: openai.AsyncOpenAI, server: InProcessServer) -> None:
        server.model.answers.extend([ANSWER, "It is sunny."])
        messages = list(HELLO)
        first = await client.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER])
        made = first.choices[0].message
        assert made.tool_calls is not None
        messages.append(made)
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in made.tool_calls]
        second = await client.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER])
        assert second.choices[0].message.content == "It is sunny."
        assert (second.choices[0].finish_reason, second.choices[0].message.tool_calls) == ("stop", None)
        prompt = server.model.requests[1].prompt
        assert isinstance(prompt, ChatPrompt)
        _, assistant, *results = prompt.messages
        assert assistant["reasoning_content"] == "A city. "
        assert [call["id"] for call in assistant["tool_calls"]] == [result["tool_call_id"] for result in results]
        assert [result["name"] for result in results] == ["weather", "clock"]

    with_client(talk)


def test_client_gets_its_mistakes_as_errors(with_client: Any) -> None:
    async def talk(client: openai.AsyncOpenAI, server: InProcessServer) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(
                model="scripted",
                messages=HELLO,
                tools=[WEATHER],
                tool_choice={"type": "function", "function": {"name": "nobody"}},
            )
        assert caught.value.param == "tool_choice"
        assert "nobody" in caught.value.message
        assert not server.model.requests

    with_client(talk)
