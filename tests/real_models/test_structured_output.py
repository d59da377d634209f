"""Answers held to a schema, a pattern or a grammar, by the official client against a real port."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jsonschema
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from tests.real_models.test_constraints import HARD, MAX_TOKENS, schemas
from tests.real_models.weather_kit import FIXED, THINKING, tool

pytestmark = [pytest.mark.real_model, pytest.mark.process]

MODEL = "localllm-demo"
FULL = os.environ.get("LOCALLLM_TEST_FULL") == "1"
N_SCHEMAS = 500 if FULL else 30
TIMEOUT_S = 600 if FULL else 50
CAPITAL: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


class City(BaseModel):
    """What ``parse`` is asked for."""

    name: str = Field(max_length=12)
    kind: Literal["city", "village"]
    districts: list[int] = Field(max_length=3)


@pytest.fixture
def client(server: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=50) as client:
        yield client


def test_parse_returns_an_instance_of_the_model(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=CAPITAL, response_format=City, temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, City)


def test_a_stream_is_held_to_the_schema_too(client: OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=CAPITAL, response_format=City, seed=1) as stream:
        answer = stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, City)


def test_each_choice_is_json_of_its_own(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=CAPITAL,
        n=3,
        temperature=1.5,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
    )
    assert all(isinstance(json.loads(choice.message.content or "")["n"], int) for choice in answer.choices)


def test_json_object(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, response_format={"type": "json_object"}, max_tokens=200, temperature=0
    )
    content = answer.choices[0].message.content or ""
    assert content.lstrip().startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"structured_outputs": {"regex": "[a-c]{3}-[0-9]{2}"}}, "[a-c]{3}-[0-9]{2}"),
        ({"guided_choice": ["left", "right"]}, "left|right"),
        ({"grammar": 'root ::= "x" [0-9] [0-9] "y"'}, "x[0-9]{2}y"),
        ({"structured_outputs": {"grammar": 'start: "ab" | "cd"'}}, "ab|cd"),
    ],
)
def test_other_constraints_on_both_endpoints(client: OpenAI, extra: dict[str, Any], pattern: str) -> None:
    chat = client.chat.completions.create(model=MODEL, messages=CAPITAL, extra_body=extra)
    text = client.completions.create(model=MODEL, prompt="1, 2, 3,", max_tokens=50, extra_body=extra)
    assert re.fullmatch(pattern, chat.choices[0].message.content or "")
    assert re.fullmatch(pattern, text.choices[0].text)
    assert chat.choices[0].finish_reason == text.choices[0].finish_reason == "stop"


def test_what_a_strict_schema_can_not_have_is_refused_and_else_left_out_with_a_warning(client: OpenAI) -> None:
    schema = {"type": "array", "items": {"type": "boolean"}, "maxItems": 2, "uniqueItems": True}

    def ask(strict: bool) -> Any:
        wanted = {"type": "json_schema", "json_schema": {"name": "flags", "schema": schema, "strict": strict}}
        return client.chat.completions.create(model=MODEL, messages=CAPITAL, response_format=wanted)  # type: ignore[call-overload]

    with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
        ask(True)
    assert caught.value.param is not None
    assert caught.value.param.startswith("response_format")
    answer = ask(False)
    assert isinstance(json.loads(answer.choices[0].message.content), list)
    assert "uniqueItems" in answer.model_extra["warnings"][0]


def test_a_hostile_grammar_is_refused_and_the_server_goes_on(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=MODEL, messages=CAPITAL, extra_body={"grammar": "root ::= " + "(" * 10_000 + '"a"' + ")" * 10_000}
        )
    answer = client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0)
    assert answer.choices[0].message.content == "The capital of France is Paris."


# --- any schema ------------------------------------------------------------------------------------------------------

ARGUMENTS = {"room": {"enum": ["kitchen", "hall"]}, "level": {"type": "integer", "minimum": 0, "maximum": 9}}
LIGHT = tool("set_light", ARGUMENTS, strict=True)
MANNERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "thinking": {"extra_body": THINKING},
    "a short thought": {"extra_body": {**THINKING, "thinking_budget": 3}},
    "tools": {"tools": [LIGHT]},
    "tools left alone": {"tools": [LIGHT], "logit_bias": {"<tool_call>": -100}},
    "tools and thinking": {"tools": [LIGHT], "extra_body": THINKING},
}
MORE_QUOTES = {'"': 8}  # by logit_bias: a small model never ends a string that has no bound

Written = tuple[str, str, list[str]]
"""One choice: its content, why it ended, the arguments of its calls."""


def ask_all(server: Any, requests: Sequence[dict[str, Any]]) -> list[Written]:
    """Send the requests at once, every other one to be streamed; return all of their choices."""

    async def run() -> list[list[Written]]:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=TIMEOUT_S) as client:
            asked = [streamed if index % 2 else whole for index in range(len(requests))]
            return await asyncio.gather(*(send(client, one) for send, one in zip(asked, requests, strict=True)))

    return list(itertools.chain.from_iterable(asyncio.run(run())))


async def whole(client: AsyncOpenAI, request: dict[str, Any]) -> list[Written]:
    answer = await client.chat.completions.create(**request)
    return [
        (
            choice.message.content or "",
            choice.finish_reason,
            [made.function.arguments for made in choice.message.tool_calls or ()],
        )
        for choice in answer.choices
    ]


async def streamed(client: AsyncOpenAI, request: dict[str, Any]) -> list[Written]:
    texts = [""] * request["n"]
    reasons = [""] * request["n"]
    calls: list[list[str]] = [[] for _ in texts]
    async for chunk in await client.chat.completions.create(**request, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason or ""
        for fragment in choice.delta.tool_calls or ():
            made = calls[choice.index]
            made += [""] * (fragment.index + 1 - len(made))
            made[fragment.index] += fragment.function.arguments
    return list(zip(texts, reasons, calls, strict=True))


def by_schema(schema: Any, manner: str, *, bias: dict[str, int] | None = None, **fields: Any) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "wanted", "schema": schema, "strict": True}}
    request = {**FIXED, "messages": CAPITAL, "response_format": wanted, "n": 2, "max_tokens": MAX_TOKENS}
    biases = {**MANNERS[manner].get("logit_bias", {}), **(bias or {})}
    return {**request, **MANNERS[manner], "logit_bias": biases, **fields}


def check(schema: Any, answers: Sequence[Written]) -> list[bool]:
    """Assert that each answer that has ended by itself is valid; return which ones have."""
    content = jsonschema.Draft202012Validator(schema)
    arguments = jsonschema.Draft202012Validator(LIGHT["function"]["parameters"])
    for text, reason, calls in answers:
        if reason == "stop":
            assert not calls
            content.validate(json.loads(text))
        elif reason == "tool_calls":
            assert calls
            assert not text
            for made in calls:
                arguments.validate(json.loads(made))
        else:
            assert reason == "length"
    return [reason != "length" for _, reason, _ in answers]


def test_what_is_written_under_a_schema_is_valid_and_nearly_always_complete(server: Any) -> None:
    complete: list[bool] = []

    @settings(max_examples=N_SCHEMAS)
    @given(schemas, st.integers(0, 2**31))
    def write(schema: Any, seed: int) -> None:
        # Draws would often be the same: a checksum is spread evenly.
        manner = list(MANNERS)[zlib.crc32(json.dumps([schema, seed]).encode()) % len(MANNERS)]
        requests = [by_schema(schema, manner, temperature=heat, seed=seed) for heat in (0, 0, 1, 1)]
        complete.extend(check(schema, ask_all(server, requests)))

    write()
    assert sum(complete) >= 0.95 * len(complete)


@pytest.mark.parametrize("name", HARD)
def test_hard_schemas(server: Any, name: str) -> None:
    schema = HARD[name]
    effort: dict[str, Any] = {} if FULL else {"n": 1, "max_tokens": 200}
    requests = [by_schema(schema, manner, seed=7, **effort) for manner in MANNERS]
    requests += [by_schema(schema, manner, temperature=1, seed=7, bias=MORE_QUOTES, **effort) for manner in MANNERS]
    assert any(check(schema, ask_all(server, requests)))
