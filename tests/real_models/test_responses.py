"""The official client's ``responses`` and ``conversations`` on a real port, with the bundled demo model."""

from __future__ import annotations

import asyncio
import functools
import json
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import agents
import httpx
import openai
import pytest
from agents import OpenAIResponsesModel, Runner
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field

from tests.openai.responses.wire_spec import check_items, check_no_extra, check_response, check_stream
from tests.real_models.conftest import ROOT, running_server
from tests.real_models.weather_kit import ANSWER, ARGUMENTS, GET_WEATHER, MODEL, PARIS, RESULT

pytestmark = [pytest.mark.real_model, pytest.mark.process]

CAPITAL = "What is the capital of France?"
WEATHER = "What is the weather in Paris?"
STORY = "Tell me a little story."
NAME = "Zorbani"
TOOL: Any = {"type": "function", "strict": False, **GET_WEATHER["function"]}
FIXED: dict[str, Any] = {"model": MODEL, "temperature": 0}
# Long enough to be met while it is written, wherever the tests run: the toy's story, without an end, over and over.
ENDLESS: dict[str, Any] = {"ignore_eos": True, "max_tokens": 1800}


@pytest.fixture
def client(server: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
        yield client


def ask(client: OpenAI, question: Any, **fields: Any) -> Any:
    """Ask by the client, and hold what really came over the wire to the client's own models."""
    raw = client.responses.with_raw_response.create(input=question, **{**FIXED, **fields})
    check_response(json.loads(raw.text))
    return raw.parse()


def follow(client: OpenAI, question: Any, **fields: Any) -> dict[str, Any]:
    """Ask for a stream and hold all of its events to the client's models; return the final response."""
    events = client.responses.create(input=question, stream=True, **{**FIXED, **fields})
    return check_stream([event.to_dict() for event in events], background=bool(fields.get("background")))


def ended(client: OpenAI, response_id: str) -> Any:
    while True:
        response = client.responses.retrieve(response_id)
        if response.status not in ("queued", "in_progress"):
            return response


def test_plain(client: OpenAI) -> None:
    response = ask(client, CAPITAL)
    assert response.output_text == PARIS
    assert (response.model, response.status) == (MODEL, "completed")
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response._request_id


def test_streamed(client: OpenAI) -> None:
    """Events come over the wire as the client's models have them, with their names, and amount to the response."""
    final = follow(client, CAPITAL)
    assert final["output"][0]["content"][0]["text"] == PARIS
    with client.responses.with_streaming_response.create(input=CAPITAL, stream=True, **FIXED) as response:
        lines = [line for line in response.iter_lines() if line and not line.startswith(":")]
    names, events = lines[::2], [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert names == [f"event: {event['type']}" for event in events]
    check_stream(events)


def test_the_accumulating_stream_of_the_client(client: OpenAI) -> None:
    with client.responses.stream(input=CAPITAL, **FIXED) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == PARIS


def test_asynchronously(server: Any) -> None:
    async def work() -> None:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
            plain = await client.responses.create(input=CAPITAL, **FIXED)
            assert plain.output_text == PARIS
            async with client.responses.stream(input=CAPITAL, **FIXED) as stream:
                async for _ in stream:
                    pass
                assert (await stream.get_final_response()).output_text == PARIS
            assert (await client.responses.retrieve(plain.id)).output_text == PARIS

    asyncio.run(work())


def test_chained_stored_retrieved_and_deleted(client: OpenAI) -> None:
    first = ask(client, f"My name is {NAME}.", metadata={"topic": "names"})
    second = ask(client, "What is my name?", previous_response_id=first.id)
    assert NAME in second.output_text
    assert second.usage.input_tokens_details.cached_tokens > 0
    assert NAME not in ask(client, "What is my name?").output_text
    fetched = client.responses.with_raw_response.retrieve(first.id)
    check_response(json.loads(fetched.text))
    assert fetched.parse().to_dict() == first.to_dict()
    [item] = check_items(client.responses.input_items.list(second.id).to_dict(mode="json") | {"object": "list"})
    assert item["content"][0]["text"] == "What is my name?"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "What is my name?", previous_response_id=second.id)
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.param == "previous_response_id"


def test_a_response_that_is_not_stored(client: OpenAI) -> None:
    response = ask(client, CAPITAL, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_history_sent_again_without_ids(client: OpenAI) -> None:
    """As Codex does it."""
    first = ask(client, f"My name is {NAME}.", store=False)
    history: list[Any] = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": f"My name is {NAME}."}]}
    ]
    history += [
        {name: value for name, value in item.to_dict().items() if name not in ("id", "status")} for item in first.output
    ]
    history.append({"role": "user", "content": "What is my name?"})
    tools: list[Any] = [{"type": "web_search"}, {"type": "local_shell"}, {"type": "custom", "name": "x"}]
    answer = client.responses.create(
        input=history, tools=tools, store=False, include=["reasoning.encrypted_content"], **FIXED
    )
    assert NAME in answer.output_text
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens > 0


def test_background(client: OpenAI) -> None:
    begun = ask(client, CAPITAL, background=True)
    assert begun.status == "queued"
    assert ended(client, begun.id).output_text == PARIS


def test_background_streamed_and_resumed(client: OpenAI) -> None:
    final = follow(client, CAPITAL, background=True)
    events = [event.to_dict() for event in client.responses.retrieve(final["id"], stream=True)]
    assert check_stream(events, background=True) == final
    rest = client.responses.retrieve(final["id"], stream=True, starting_after=4)
    assert [event.to_dict() for event in rest] == events[5:]


def test_background_cancelled(client: OpenAI) -> None:
    begun = ask(client, STORY, background=True, extra_body=ENDLESS)
    while client.responses.retrieve(begun.id).status == "queued":
        pass
    cancelled = client.responses.cancel(begun.id)
    check_response(cancelled.to_dict())
    assert cancelled.status == "cancelled"
    assert client.responses.retrieve(begun.id).to_dict() == cancelled.to_dict()
    assert ask(client, CAPITAL).output_text == PARIS


def test_many_in_the_background_at_once(client: OpenAI) -> None:
    begun = [ask(client, CAPITAL, background=True).id for _ in range(8)]
    assert [ended(client, response_id).output_text for response_id in begun] == [PARIS] * 8


@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_round_trip_of_tools(client: OpenAI, by_id: bool, stream: bool) -> None:
    def told(question: Any, **fields: Any) -> dict[str, Any]:
        return (
            follow(client, question, tools=[TOOL], **fields)
            if stream
            else ask(client, question, tools=[TOOL], **fields).to_dict()
        )

    question: list[Any] = [{"role": "user", "content": WEATHER}]
    first = told(question, store=by_id)
    [call] = first["output"]
    assert (call["name"], json.loads(call["arguments"])) == ("get_weather", ARGUMENTS)
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": RESULT}
    second = told([result], previous_response_id=first["id"]) if by_id else told([*question, call, result], store=False)
    assert second["output"][0]["content"][0]["text"] == ANSWER


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_call_that_is_asked_for_is_made(client: OpenAI, choice: Any) -> None:
    [call] = ask(client, CAPITAL, tools=[TOOL], tool_choice=choice).output
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert ask(client, WEATHER, tools=[TOOL], tool_choice="none").output[0].type == "message"


@pytest.mark.parametrize("stream", [True, False])
def test_thoughts(client: OpenAI, stream: bool) -> None:
    fields: dict[str, Any] = {"reasoning": {"effort": "high"}}
    final = follow(client, CAPITAL, **fields) if stream else ask(client, CAPITAL, **fields).to_dict()
    thought, message = final["output"]
    assert thought["content"][0]["text"]
    assert message["content"][0]["text"] == PARIS
    assert final["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert ask(client, [{"role": "user", "content": CAPITAL}, *final["output"], {"role": "user", "content": CAPITAL}])


@pytest.mark.parametrize("stream", [True, False])
def test_cut_off(client: OpenAI, stream: bool) -> None:
    final = follow(client, STORY, max_output_tokens=5) if stream else ask(client, STORY, max_output_tokens=5).to_dict()
    assert final["status"] == "incomplete"
    assert final["usage"]["output_tokens"] == 5


@pytest.mark.parametrize("stream", [True, False])
def test_log_probabilities(client: OpenAI, stream: bool) -> None:
    fields: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    final = follow(client, CAPITAL, **fields) if stream else ask(client, CAPITAL, **fields).to_dict()
    entries = final["output"][0]["content"][0]["logprobs"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == PARIS
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)


class Fact(BaseModel):
    """Something about a place."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=12)
    kind: Literal["city", "country"]
    is_capital: bool


def test_parse(client: OpenAI) -> None:
    parsed = client.responses.parse(input=CAPITAL, text_format=Fact, max_output_tokens=200, **FIXED)
    assert isinstance(parsed.output_parsed, Fact)
    check_response(ask(client, CAPITAL, text={"format": parsed.text.format.to_dict()}, max_output_tokens=200).to_dict())  # type: ignore[union-attr]


def test_parse_of_a_stream(client: OpenAI) -> None:
    with client.responses.stream(input=CAPITAL, text_format=Fact, max_output_tokens=200, **FIXED) as stream:
        stream.until_done()
        assert isinstance(stream.get_final_response().output_parsed, Fact)


def test_parse_of_a_call(client: OpenAI) -> None:
    class get_weather(BaseModel):
        city: str = Field(max_length=12)

    response = client.responses.parse(
        input=WEATHER,
        tools=[openai.pydantic_function_tool(get_weather)],
        tool_choice="required",
        **FIXED,  # type: ignore[list-item]
    )
    [call] = [item for item in response.output if item.type == "function_call"]
    assert isinstance(call.parsed_arguments, get_weather)


def test_what_is_too_long_loses_its_oldest(client: OpenAI) -> None:
    said: list[Any] = []
    for n in range(150):
        said += [
            {"role": "user", "content": f"What is {n} plus 1?"},
            {"role": "assistant", "content": f"{n} plus 1 is {n + 1}."},
        ]
    said.append({"role": "user", "content": CAPITAL})
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, said)
    assert caught.value.code == "context_length_exceeded"
    answer = client.responses.create(input=said, truncation="auto", **FIXED)
    assert answer.output_text == PARIS
    assert "left out" in answer.to_dict()["warnings"][0]  # type: ignore[index]


def test_conversations(client: OpenAI) -> None:
    conversation = client.conversations.create(
        items=[{"type": "message", "role": "user", "content": f"My name is {NAME}."}], metadata={"topic": "names"}
    )
    check_no_extra(conversation)
    answer = ask(client, "What is my name?", conversation=conversation.id)
    assert NAME in answer.output_text
    items = list(client.conversations.items.list(conversation.id, order="asc", limit=2))
    assert [item.type for item in items] == ["message"] * 3, "the client turns the pages"
    check_no_extra(items)
    client.conversations.items.create(conversation.id, items=[{"role": "user", "content": CAPITAL}])
    assert client.conversations.items.retrieve(items[0].id or "", conversation_id=conversation.id) == items[0]
    client.conversations.items.delete(items[0].id or "", conversation_id=conversation.id)
    assert len(list(client.conversations.items.list(conversation.id))) == 3
    assert client.conversations.update(conversation.id, metadata={"topic": "else"}).metadata == {"topic": "else"}
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)


def test_counting_tokens(client: OpenAI) -> None:
    counted = client.responses.input_tokens.count(model=MODEL, input=CAPITAL, instructions="Be brief.")
    assert counted.input_tokens == ask(client, CAPITAL, instructions="Be brief.").usage.input_tokens


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    key = "sk-test-0123456789abcdef"
    with (
        running_server(tmp_path, api_key=key) as running,
        OpenAI(base_url=running.base_url, api_key=key, max_retries=0, timeout=50) as client,
    ):
        kept = ask(client, f"My name is {NAME}.")
        left = ask(client, STORY, background=True, extra_body=ENDLESS)
        while client.responses.retrieve(left.id).status == "queued":
            pass
    with (
        running_server(tmp_path, api_key=key) as running,
        OpenAI(base_url=running.base_url, api_key=key, max_retries=0, timeout=50) as client,
    ):
        assert client.responses.retrieve(kept.id).to_dict() == kept.to_dict()
        assert NAME in ask(client, "What is my name?", previous_response_id=kept.id).output_text
        failed = client.responses.retrieve(left.id)
        assert failed.status == "failed"
        assert failed.error is not None
        assert "shut" in failed.error.message
        assert failed.output


def test_the_documented_program_runs(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "responses.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(program.replace("http://127.0.0.1:8000", server.url), names)
    names["client"].close()
    first, counted, story = capsys.readouterr().out.splitlines()
    assert NAME in first
    assert "1, 2, 3" in counted
    assert story.startswith("Once upon a time")


# --- frameworks -------------------------------------------------------------------------------------------------------


def test_openai_agents(server: Any) -> None:
    @agents.function_tool
    def get_weather(city: str) -> str:
        """Say what the weather in a city is."""
        assert city == "Paris"
        return RESULT

    async def work() -> list[str]:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
            model = OpenAIResponsesModel(MODEL, client)
            settings = agents.ModelSettings(temperature=0)
            agent = agents.Agent("demo", tools=[get_weather], model=model, model_settings=settings)
            config = agents.RunConfig(tracing_disabled=True)
            plain = await Runner.run(agent, WEATHER, run_config=config)
            streamed = Runner.run_streamed(agent, WEATHER, run_config=config)
            async for _ in streamed.stream_events():
                pass
            return [plain.final_output, streamed.final_output]

    assert asyncio.run(work()) == [ANSWER, ANSWER]


def sum_of(chunks: Iterator[Any]) -> Any:
    """Add the pieces of a stream up, as applications do."""
    return functools.reduce(operator.add, chunks)


@pytest.fixture
def langchain(server: Any) -> Iterator[Callable[..., ChatOpenAI]]:
    with httpx.Client(timeout=50) as connections:

        def make(**fields: Any) -> ChatOpenAI:
            return ChatOpenAI(
                model=MODEL,
                base_url=server.base_url,
                api_key="none",  # type: ignore[arg-type]
                temperature=0,
                max_retries=0,
                use_responses_api=True,
                http_client=connections,
                **fields,
            )

        yield make


def test_langchain(langchain: Callable[..., ChatOpenAI]) -> None:
    @tool
    def get_weather(city: str) -> str:
        """Say what the weather in a city is."""
        return RESULT

    chat = langchain()
    assert chat.invoke(CAPITAL).text == PARIS
    assert "".join(chunk.text for chunk in chat.stream(CAPITAL)) == PARIS
    thinking = langchain(reasoning={"effort": "high", "summary": "auto"}, output_version="v1")
    for answer in (thinking.invoke(CAPITAL), sum_of(thinking.stream(CAPITAL))):
        [thought, text] = answer.content_blocks
        assert (thought["type"], text["text"]) == ("reasoning", PARIS)
        assert thought["reasoning"]
    with_tools = chat.bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(WEATHER)]
    called = with_tools.invoke(messages)
    messages += [called, get_weather.invoke(called.tool_calls[0])]  # type: ignore[attr-defined]
    assert with_tools.invoke(messages).text == ANSWER


def test_langchain_by_previous_ids(langchain: Callable[..., ChatOpenAI]) -> None:
    chat = langchain(use_previous_response_id=True)
    said: list[Any] = [HumanMessage(f"My name is {NAME}.")]
    said.append(chat.invoke(said))
    said.append(HumanMessage("What is my name?"))
    assert NAME in chat.invoke(said).text
