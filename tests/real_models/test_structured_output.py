"""Answers held to a schema, a pattern or a grammar, by the official client against a real port."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

pytestmark = [pytest.mark.real_model, pytest.mark.process]

MODEL = "localllm-demo"
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
