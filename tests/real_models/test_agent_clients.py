"""Agent frameworks, unmodified, against a real port with the bundled demo model: tools, thoughts, structured output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import agents
import httpx
import instructor
import pydantic_ai
import pytest
from agents import OpenAIChatCompletionsModel, Runner
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.real_models.weather_kit import ANSWER, CAPITAL, MODEL, RESULT, THINKING

pytestmark = [pytest.mark.real_model, pytest.mark.process]

QUESTION = "What is the weather in Paris?"
TWO_QUESTIONS = "What is the weather in Paris and Rome?"
TWO_ANSWERS = f"{ANSWER} The weather in Rome is {RESULT}."
JSON_PLEASE = "What is the capital of France? Answer in JSON."
# What the models of this repository write as JSON of any kind has no end: they close the object that they have opened.
EMPTY_OBJECT = {"logit_bias": [["}", 100]]}


class Fact(BaseModel):
    """Something about a place, and no more than that: a toy would make up properties for ever."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=12)
    kind: Literal["city", "country"]
    is_capital: bool


class Anything(BaseModel):
    """What any JSON object is, for modes that ask for no more than one."""

    model_config = ConfigDict(extra="allow")


@asynccontextmanager
async def async_client(server: Any) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
        yield client


def run(server: Any, work: Callable[[AsyncOpenAI], Coroutine[Any, Any, Any]]) -> Any:
    async def connected() -> Any:
        async with async_client(server) as client:
            return await work(client)

    return asyncio.run(connected())


# --- LangChain -------------------------------------------------------------------------------------------------------


@pytest.fixture
def chat_openai(server: Any) -> Iterator[ChatOpenAI]:
    """LangChain leaves its connections to the garbage collector: these are closed."""
    with httpx.Client(timeout=50) as connections:
        yield ChatOpenAI(
            model=MODEL,
            base_url=server.base_url,
            api_key="none",  # type: ignore[arg-type]
            temperature=0,
            max_retries=0,
            stream_usage=True,
            http_client=connections,
        )


@tool("get_weather")
def langchain_weather(city: str) -> str:
    """Return the weather in a city."""
    return RESULT if city else "Error: no city"


@pytest.mark.parametrize(
    ("question", "cities", "said"), [(QUESTION, ["Paris"], ANSWER), (TWO_QUESTIONS, ["Paris", "Rome"], TWO_ANSWERS)]
)
def test_langchain_tools(chat_openai: ChatOpenAI, question: str, cities: list[str], said: str) -> None:
    model = chat_openai.bind_tools([langchain_weather])
    messages: list[Any] = [HumanMessage(question)]
    called = model.invoke(messages)
    assert [call["args"] for call in called.tool_calls] == [{"city": city} for city in cities]
    assert called.invalid_tool_calls == []
    messages += [called, *(langchain_weather.invoke(call) for call in called.tool_calls)]
    assert model.invoke(messages).content == said


def test_langchain_streams_tools(chat_openai: ChatOpenAI) -> None:
    model = chat_openai.bind_tools([langchain_weather])
    pieces = list(model.stream([HumanMessage(TWO_QUESTIONS)]))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [
        ("get_weather", {"city": "Paris"}),
        ("get_weather", {"city": "Rome"}),
    ]
    assert len({call["id"] for call in whole.tool_calls}) == 2
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 10
    results = [langchain_weather.invoke(call) for call in whole.tool_calls]
    said = "".join(str(piece.content) for piece in model.stream([HumanMessage(TWO_QUESTIONS), whole, *results]))
    assert said == TWO_ANSWERS


def test_langchain_chooses_tools(chat_openai: ChatOpenAI) -> None:
    for choice in ("any", "required", "get_weather"):
        model = chat_openai.bind_tools([langchain_weather], tool_choice=choice, parallel_tool_calls=False)
        (call,) = model.invoke(QUESTION).tool_calls
        assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    silent = chat_openai.bind_tools([langchain_weather], tool_choice="none").invoke(QUESTION)
    assert silent.tool_calls == []
    assert silent.content


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("strict", [None, True])
def test_langchain_structured_output(chat_openai: ChatOpenAI, method: Any, strict: bool | None) -> None:
    held = chat_openai.with_structured_output(Fact, method=method, strict=strict)
    assert isinstance(held.invoke(JSON_PLEASE), Fact)
    raw = chat_openai.with_structured_output(Fact.model_json_schema(), method=method, strict=strict)
    assert Fact.model_validate(raw.invoke(JSON_PLEASE))


def test_langchain_json_mode(chat_openai: ChatOpenAI) -> None:
    model = chat_openai.model_copy(update={"extra_body": EMPTY_OBJECT})
    assert isinstance(model.with_structured_output(Anything, method="json_mode").invoke(JSON_PLEASE), Anything)


# --- OpenAI Agents SDK -----------------------------------------------------------------------------------------------


@agents.function_tool(name_override="get_weather")
def agents_weather(city: str) -> str:
    """Return the weather in a city."""
    return RESULT if city else "Error: no city"


@pytest.fixture
def _chat_completions() -> Iterator[None]:
    """Chat completions, and no traces to be sent to its maker."""
    agents.set_default_openai_api("chat_completions")
    agents.set_tracing_disabled(True)
    yield
    agents.set_tracing_disabled(False)
    agents.set_default_openai_api("responses")


def agent(client: AsyncOpenAI, **settings: Any) -> agents.Agent[Any]:
    model = OpenAIChatCompletionsModel(model=MODEL, openai_client=client)
    return agents.Agent(
        name="Guide", model=model, model_settings=agents.ModelSettings(temperature=0, include_usage=True), **settings
    )


@pytest.mark.usefixtures("_chat_completions")
@pytest.mark.parametrize(("question", "said"), [(QUESTION, ANSWER), (TWO_QUESTIONS, TWO_ANSWERS)])
def test_agents_run(server: Any, question: str, said: str) -> None:
    async def work(client: AsyncOpenAI) -> Any:
        return await Runner.run(agent(client, tools=[agents_weather]), question)

    ended = run(server, work)
    kinds = [item.type for item in ended.new_items]
    n_calls = said.count("weather")
    assert kinds == ["tool_call_item"] * n_calls + ["tool_call_output_item"] * n_calls + ["message_output_item"]
    assert ended.final_output == said
    assert ended.context_wrapper.usage.requests == 2


@pytest.mark.usefixtures("_chat_completions")
def test_agents_run_streamed(server: Any) -> None:
    async def work(client: AsyncOpenAI) -> Any:
        running = Runner.run_streamed(agent(client, tools=[agents_weather]), QUESTION)
        events = [event async for event in running.stream_events()]
        raw = [event.data for event in events if event.type == "raw_response_event"]
        return running, raw

    ended, raw = run(server, work)
    assert ended.final_output == ANSWER
    arguments = [event.delta for event in raw if event.type == "response.function_call_arguments.delta"]
    assert "".join(arguments) == '{"city": "Paris"}'
    assert len(arguments) > 3
    assert "".join(event.delta for event in raw if event.type == "response.output_text.delta") == ANSWER


@pytest.mark.usefixtures("_chat_completions")
def test_agents_see_thoughts(server: Any) -> None:
    async def work(client: AsyncOpenAI) -> Any:
        asked = agent(client, tools=[agents_weather])
        asked.model_settings.extra_body = THINKING
        return await Runner.run(asked, QUESTION)

    ended = run(server, work)
    kinds = [item.type for item in ended.new_items]
    assert kinds[:3] == ["reasoning_item", "tool_call_item", "tool_call_output_item"]
    assert ended.context_wrapper.usage.output_tokens_details.reasoning_tokens > 0


@pytest.mark.usefixtures("_chat_completions")
def test_agents_output_type_and_a_second_turn(server: Any) -> None:
    async def work(client: AsyncOpenAI) -> Any:
        first = await Runner.run(agent(client, tools=[agents_weather]), QUESTION)
        turn = [*first.to_input_list(), {"role": "user", "content": CAPITAL[0]["content"]}]
        second = await Runner.run(agent(client, tools=[agents_weather]), turn)
        typed = await Runner.run(agent(client, output_type=Fact), CAPITAL[0]["content"])
        return second.final_output, typed.final_output

    said, fact = run(server, work)
    assert said == "The capital of France is Paris."
    assert isinstance(fact, Fact)


# --- instructor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
def test_instructor(server: Any, mode: instructor.Mode) -> None:
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as connected:
        client = instructor.from_openai(connected, mode=mode)
        fact, answer = client.chat.completions.create_with_completion(
            model=MODEL, response_model=Fact, messages=CAPITAL, temperature=0, max_retries=0
        )
    assert isinstance(fact, Fact)
    assert answer.usage.completion_tokens > 0


def test_instructor_json(server: Any) -> None:
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as connected:
        client = instructor.from_openai(connected, mode=instructor.Mode.JSON)
        found = client.chat.completions.create(
            model=MODEL,
            response_model=Anything,
            messages=CAPITAL,
            temperature=0,
            max_retries=0,
            extra_body=EMPTY_OBJECT,
        )
    assert isinstance(found, Anything)


def test_instructor_asynchronously_and_in_parts(server: Any) -> None:
    async def work(client: AsyncOpenAI) -> Any:
        patched = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
        parts = patched.chat.completions.create_partial(
            model=MODEL, response_model=Fact, messages=CAPITAL, temperature=0, max_retries=0
        )
        return [part async for part in parts]

    *_, last = run(server, work)
    assert Fact.model_validate(last.model_dump())


# --- pydantic-ai -----------------------------------------------------------------------------------------------------


def typed_agent(client: AsyncOpenAI, **settings: Any) -> pydantic_ai.Agent[None, Any]:
    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))
    return pydantic_ai.Agent(model, model_settings={"temperature": 0}, **settings)


def get_weather(city: str) -> str:
    """Return the weather in a city."""
    return RESULT if city else "Error: no city"


@pytest.mark.parametrize(("question", "said"), [(QUESTION, ANSWER), (TWO_QUESTIONS, TWO_ANSWERS)])
def test_pydantic_ai_tools(server: Any, question: str, said: str) -> None:
    async def work(client: AsyncOpenAI) -> Any:
        return await typed_agent(client, tools=[get_weather]).run(question)

    ended = run(server, work)
    assert ended.output == said
    assert ended.usage.requests == 2
    assert ended.usage.tool_calls == said.count("weather")


def test_pydantic_ai_streams(server: Any) -> None:
    async def work(client: AsyncOpenAI) -> list[str]:
        async with typed_agent(client, tools=[get_weather]).run_stream(QUESTION) as running:
            return [piece async for piece in running.stream_text(delta=True, debounce_by=None)]

    pieces = run(server, work)
    assert "".join(pieces) == ANSWER
    assert len(pieces) > 3


@pytest.mark.parametrize("wanted", [Fact, pydantic_ai.ToolOutput(Fact), pydantic_ai.NativeOutput(Fact)], ids=str)
def test_pydantic_ai_output_types(server: Any, wanted: Any) -> None:
    async def work(client: AsyncOpenAI) -> Any:
        return await typed_agent(client, output_type=wanted).run(CAPITAL[0]["content"])

    assert isinstance(run(server, work).output, Fact)


def test_pydantic_ai_sees_thoughts_and_sends_them_back(server: Any) -> None:
    async def work(client: AsyncOpenAI) -> Any:
        return await typed_agent(client, tools=[get_weather]).run(
            QUESTION, model_settings={"temperature": 0, "extra_body": THINKING}
        )

    parts = [part for message in run(server, work).all_messages() for part in message.parts]
    kinds = [part.part_kind for part in parts]
    assert kinds[:4] == ["user-prompt", "thinking", "tool-call", "tool-return"]
    assert parts[1].content
    assert kinds[-1] == "text"
