"""What tests of tools and thoughts ask the demo model, and a reader of streams that holds them to clients' rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from openai import OpenAI

MODEL = "localllm-demo"
FIXED: dict[str, Any] = {"model": MODEL, "temperature": 0}
ARGUMENTS = {"city": "Paris"}
RESULT = "18 degrees and sunny"
ANSWER = "The weather in Paris is 18 degrees and sunny."
CAPITAL: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
THINKING: dict[str, Any] = {"enable_thinking": True}
CALL_ID = "call_1"


def tool(name: str, properties: dict[str, Any], *, strict: bool = False) -> dict[str, Any]:
    """A function that needs all of its parameters."""
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function: dict[str, Any] = {"name": name, "description": f"Does what {name} says.", "parameters": parameters}
    if strict:
        function["strict"] = True
        parameters["additionalProperties"] = False
    return {"type": "function", "function": function}


GET_WEATHER = tool("get_weather", {"city": {"type": "string"}})
ADD = tool("add", {"a": {"type": "integer"}, "b": {"type": "integer"}})
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


def ask(*cities: str) -> list[Any]:
    """The question that only the tool can answer."""
    return [{"role": "user", "content": f"What is the weather in {' and '.join(cities or ('Paris',))}?"}]


def call(arguments: Any = '{"city": "Paris"}', call_id: Any = CALL_ID) -> dict[str, Any]:
    """A message with one call, as a client sends it back."""
    function = {"name": "get_weather", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def result(content: Any = RESULT, call_id: Any = CALL_ID) -> dict[str, Any]:
    """What the tool says."""
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def calls_of(message: Any) -> list[tuple[str, Any]]:
    """Names and arguments of a message's calls."""
    return [(made.function.name, json.loads(made.function.arguments)) for made in message.tool_calls or ()]


@dataclass
class StreamedChoice:
    """One choice of a stream, put together."""

    content: str | None = None
    reasoning: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)
    function_call: dict[str, str] | None = None
    tokens: list[str] = field(default_factory=list)  # those with a log-probability
    finish_reason: str | None = None
    n_deltas: int = 0

    def called(self) -> list[tuple[str, Any]]:
        """Names and arguments of the calls."""
        return [(made["name"], json.loads(made["arguments"])) for made in self.calls]

    def add(self, choice: dict[str, Any]) -> None:
        """Go on with a chunk's choice. Asserts all that is promised about one."""
        assert self.finish_reason is None, "nothing comes behind the finish reason"
        delta = dict(choice["delta"])
        self.finish_reason = choice["finish_reason"]
        if not self.n_deltas:
            assert delta.pop("role") == "assistant"
            assert delta["content"] in (None, "")
        self.n_deltas += 1
        if self.finish_reason is not None:
            assert delta == {}
        assert len(delta) <= 1, "content, thoughts and calls come in chunks of their own"
        self.content = _joined(self.content, delta.pop("content", None))
        self.reasoning += delta.pop("reasoning_content", "")
        for entry in (choice["logprobs"] or {}).get("content") or ():
            self.tokens.append(entry["token"])
        for fragment in delta.pop("tool_calls", ()):
            self._add_call(fragment)
        if "function_call" in delta:
            self._add_function_call(delta.pop("function_call"))
        assert delta == {}, "nothing else is promised"

    def _add_call(self, fragment: dict[str, Any]) -> None:
        if fragment["index"] == len(self.calls):
            made = fragment["function"]
            assert set(fragment) == {"index", "id", "type", "function"}
            assert (fragment["type"], set(made), made["arguments"]) == ("function", {"name", "arguments"}, "")
            self.calls.append({"id": fragment["id"], "name": made["name"], "arguments": ""})
            return
        assert fragment["index"] == len(self.calls) - 1, "calls are written one after the other"
        assert set(fragment) == {"index", "function"}, "id, type and name are told once: clients join them"
        assert set(fragment["function"]) == {"arguments"}
        self.calls[-1]["arguments"] += fragment["function"]["arguments"]

    def _add_function_call(self, fragment: dict[str, str]) -> None:
        if self.function_call is None:
            assert fragment == {"name": fragment["name"], "arguments": ""}
            self.function_call = dict(fragment)
            return
        assert set(fragment) == {"arguments"}
        self.function_call["arguments"] += fragment["arguments"]


@dataclass(frozen=True)
class Streamed:
    """A whole stream."""

    choices: list[StreamedChoice]
    chunks: list[dict[str, Any]]
    usage: dict[str, Any] | None


def stream(client: OpenAI, messages: Sequence[Any], *, n: int = 1, **fields: Any) -> Streamed:
    """Ask by the official client and read the lines as they were sent, not as a client forgives them."""
    streaming = client.chat.completions.with_streaming_response
    with streaming.create(messages=messages, stream=True, n=n, **{**FIXED, **fields}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line and not line.startswith(":")]
    assert lines.pop() == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    usage = chunks[-1].get("usage")
    for chunk in chunks[:-1] if usage else chunks:
        assert chunk.get("usage") is None
        assert len(chunk["choices"]) == 1
    choices = [StreamedChoice() for _ in range(n)]
    for chunk in chunks:
        for choice in chunk["choices"]:
            choices[choice["index"]].add(choice)
    assert all(choice.finish_reason is not None for choice in choices)
    assert (usage is not None) == bool(fields.get("stream_options"))
    if usage:
        assert chunks[-1]["choices"] == []
    return Streamed(choices, chunks, usage)


def _joined(text: str | None, more: str | None) -> str | None:
    return text if more is None else (text or "") + more
