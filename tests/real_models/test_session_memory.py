"""Sessions through real weights and a real port: recall over turns and restarts, streams, departures, long talks."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI
from typer.testing import CliRunner

from localllm.cli import app
from tests.real_models.conftest import RunningServer, running_server

pytestmark = [pytest.mark.real_model, pytest.mark.process]

FIXED: dict[str, Any] = {"model": "localllm-demo", "temperature": 0, "max_tokens": 40}
NAME = "Zorbani"


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    with connect(server) as client:
        yield client


def connect(server: RunningServer) -> OpenAI:
    return OpenAI(base_url=server.base_url, api_key=server.api_key or "none", max_retries=0, timeout=50)


def ask(client: OpenAI, text: str, session_id: str, *, stream: bool = False, **fields: Any) -> tuple[str, Any, int]:
    """Return the answer, what is told of the session, and how many tokens of the prompt were cached."""
    body: dict[str, Any] = {**FIXED, "messages": [{"role": "user", "content": text}], **fields}
    body["extra_body"] = {"session_id": session_id}
    if not stream:
        answer = client.chat.completions.create(**body)
        told, usage = answer.model_extra or {}, answer.usage
        text = answer.choices[0].message.content or ""
    else:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(client.chat.completions.create(**body))
        told, usage = chunks[0].model_extra or {}, chunks[-1].usage
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert told["session"]["id"] == told["session_id"]
    return text, told["session"], usage.prompt_tokens_details.cached_tokens or 0


def get(server: RunningServer, path: str, method: str = "GET", body: Any = None) -> tuple[int, Any]:
    parts = urlsplit(server.url)
    with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=50)) as connection:
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.mark.parametrize("stream", [False, True])
def test_a_fact_is_recalled_from_an_earlier_turn(client: OpenAI, stream: bool) -> None:
    _, session, _ = ask(client, f"My name is {NAME}.", "new", stream=stream)
    ask(client, "What is the capital of France?", session["id"], stream=stream)
    answer, session, n_cached = ask(client, "What is my name?", session["id"], stream=stream)
    assert NAME in answer
    assert (session["messages"], session["omitted_messages"]) == (4, 0)
    assert n_cached > 20
    forgotten, _, _ = ask(client, "What is my name?", "new", stream=stream)
    assert NAME not in forgotten


def test_a_fact_is_recalled_after_a_restart(tmp_path: Path) -> None:
    with running_server(tmp_path) as server, connect(server) as client:
        _, plain, _ = ask(client, f"My name is {NAME}.", "new")
        _, streamed, _ = ask(client, "My secret word is brimolat.", "new", stream=True)
    with running_server(tmp_path) as server, connect(server) as client:
        answer, told, _ = ask(client, "What is my name?", plain["id"], stream=True)
        assert NAME in answer
        assert told["messages"] == 2
        assert "brimolat" in ask(client, "What is my secret word?", streamed["id"])[0]
        status, page = get(server, "/v1/sessions")
        assert (status, {one["id"] for one in page["data"]}) == (200, {plain["id"], streamed["id"]})
        assert all(one["messages"] == 4 for one in page["data"])


def test_a_client_that_resends_everything_gets_the_same_answers(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "system", "content": "You are a pirate."}]
    session_id = "new"
    for text in (f"My name is {NAME}.", "What is 3 plus 4?", "What is my name?"):
        messages.append({"role": "user", "content": text})
        extra = {"session_id": session_id}
        kept = client.chat.completions.create(**FIXED, messages=messages, extra_body=extra)
        plain = client.chat.completions.create(**FIXED, messages=messages)
        assert kept.usage is not None
        assert plain.usage is not None
        assert kept.usage.prompt_tokens == plain.usage.prompt_tokens
        assert kept.choices[0].message.content == plain.choices[0].message.content
        session_id = (kept.model_extra or {})["session_id"]
        messages.append({"role": "assistant", "content": kept.choices[0].message.content})
    assert NAME in messages[-1]["content"]


def test_instructions_given_once_go_on_counting(client: OpenAI) -> None:
    system = {"role": "system", "content": "Answer in one word."}
    first = {"role": "user", "content": "What is the capital of Spain?"}
    _, session, _ = ask(client, "", "new", messages=[system, first])
    answer, _, _ = ask(client, "What is the capital of Italy?", session["id"])
    assert answer.strip(" .") == "Rome"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_drops_its_turn(server: RunningServer, client: OpenAI, stream: bool) -> None:
    _, session, _ = ask(client, f"My name is {NAME}.", "new")
    body = json.dumps(
        {
            **FIXED,
            "messages": [{"role": "user", "content": "Tell me a story about a dragon."}],
            "session_id": session["id"],
            "stream": stream,
            "max_tokens": 1500,
            "ignore_eos": True,
        }
    ).encode()
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if stream:
            assert connection.recv(1)
    answer, told, _ = ask(client, "What is my name?", session["id"])  # waits until the other is over
    assert (NAME in answer, told["messages"]) == (True, 2)


def test_a_long_conversation_never_overflows(server: RunningServer, client: OpenAI) -> None:
    _, session, _ = ask(client, "", "new", messages=[{"role": "user", "content": "Hello!"}])
    filler = "Repeat: " + "lemon river stone " * 45
    told = session
    for number in range(12):
        _, told, _ = ask(client, f"{number} {filler}", session["id"], max_tokens=8, stream=bool(number % 2))
    assert told["messages"] == 24
    assert told["omitted_turns"] > 0
    assert told["omitted_messages"] == 2 * told["omitted_turns"]
    answer, _, _ = ask(client, "What is the capital of France?", session["id"])
    assert answer == "The capital of France is Paris."
    _, found = get(server, f"/v1/sessions/{session['id']}")
    assert found["messages"] == 28
    assert 0 < found["context_tokens"] < 2048


def test_calls_of_tools_go_on_over_turns(client: OpenAI) -> None:
    weather = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    asked: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    fields: Any = {**FIXED, "tools": [weather]}
    first: Any = client.chat.completions.create(**fields, messages=asked, extra_body={"session_id": "new"})
    (call,) = first.choices[0].message.tool_calls
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees and sunny"}
    extra = {"session_id": (first.model_extra or {})["session_id"]}
    second = client.chat.completions.create(**fields, messages=[result], extra_body=extra)
    assert second.choices[0].message.content == "The weather in Paris is 18 degrees and sunny."


def test_unknown_sessions_and_others_are_told_by_the_client(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, "Hi", "3b1f6e2e-0000-4000-8000-000000000000")
    assert caught.value.code == "session_not_found"


def test_two_keys_through_a_real_port(guarded_server: RunningServer) -> None:
    with connect(guarded_server) as client:
        _, session, _ = ask(client, f"My name is {NAME}.", "new")
        assert NAME in ask(client, "What is my name?", session["id"])[0]
    status, body = get(guarded_server, f"/v1/sessions/{session['id']}")
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


def test_a_chat_in_the_terminal_goes_on_where_it_was(server: RunningServer, tmp_path: Path) -> None:
    def chat(lines: str, *arguments: str) -> Any:
        command = ["chat", "--url", server.url, "-m", "localllm-demo", "--param", "temperature=0", *arguments]
        result = CliRunner().invoke(app, command, input=lines, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    begun = chat(f"My name is {NAME}.\nWhat is 3 plus 4?\n/retry\n/session\n", "--session", "new")
    *_, told = begun.stderr.splitlines()
    session_id, title, *_ = told.split("  ")
    assert title == f"My name is {NAME}."
    assert "(4 messages)" in begun.stderr
    again = chat("What is my name?\n/sessions\n", "--session", session_id)
    assert NAME in again.stdout
    assert f"* {session_id}" in again.stderr
