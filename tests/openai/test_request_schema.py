"""The schemas that callers are shown: whatever works is allowed by them, and every field has its meaning."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from localllm.contract.errors import LocalLLMError
from localllm.openai import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    RerankRequest,
    TextsRerankRequest,
    parse_chat,
    parse_completion,
    parse_embedding,
    parse_rerank,
    request_schema,
)
from localllm.openai.field_help import FIELD_HELP, NESTED_HELP
from localllm.openai.field_schemas import FIELD_SCHEMAS, MODEL_OPTIONS, NESTED_SCHEMAS
from localllm.openai.wire_model import WireModel

EXAMPLES = 3000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 300

USER = {"role": "user", "content": "Hi"}
REQUESTS: dict[type[WireModel], tuple[Callable[..., Any], dict[str, Any]]] = {
    ChatCompletionRequest: (lambda body: parse_chat(body).generate_request(), {"messages": [USER]}),
    CompletionRequest: (lambda body: parse_completion(body).generate_requests(), {"prompt": "Hi"}),
    EmbeddingRequest: (lambda body: parse_embedding(body).pool_request(), {"input": "Hi"}),
    RerankRequest: (parse_rerank, {"query": "Hi", "documents": ["Hi"]}),
    TextsRerankRequest: (parse_rerank, {"query": "Hi", "texts": ["Hi"]}),
}
MODELS = list(REQUESTS)

FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PARTS = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
GOOD: dict[str, list[Any]] = {
    "messages": [
        [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "1"}],
        [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}, "id": 7}]}],
        [USER, {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}}, USER],
        [{"role": "developer", "content": PARTS}, {**USER, "name": "me", "tool_calls": None, "reasoning": None}],
        [{"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}], "reasoning_content": "t"}, USER],
    ],
    "tools": [[], [TOOL], [{"type": "function", "function": {"name": "f"}}]],
    "functions": [[FUNCTION], [{"name": "f", "parameters": None}]],
    "tool_choice": ["none", "auto"],
    "function_call": ["none", "auto"],
    "response_format": [
        {},
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_object", "schema": {}},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": None, "description": None}},
        {"type": "structural_tag", "structures": [], "triggers": []},
    ],
    "structured_outputs": [{"json": {}}, {"json": "{}"}, {"regex": "a"}, {"choice": ["a"]}, {"json_object": True}],
    "guided_json": [{}, "{}"],
    "json_schema": [{}, "{}"],
    "guided_choice": [["a", "b"]],
    "logit_bias": [{}, {"1": 5}, {"1": False, "a": -1.5}, [[1, 5]], [["a", False]], []],
    "lora": [[], [{"id": 0}], [{"name": "a", "scale": 0.5}], [{"id": 0, "name": None}]],
    "stop": ["a", ["a", "b"], []],
    "prompt": ["", ["a"], [1, 2], [[1], [2]]],
    "input": ["a", ["a"], [1, 2], [[1], [2]]],
    "documents": [["a", {"text": "b"}], [{"text": 1}]],
    "reasoning": [{}, {"effort": "low"}, {"enabled": False, "exclude": True, "max_tokens": -1}],
    "thinking": [{"type": "enabled", "budget_tokens": 5}, {"type": None}],
    "chat_template_kwargs": [{}, {"enable_thinking": False, "other": [1]}],
    "stream_options": [{}, {"include_usage": None}],
    "encoding_format": ["float", "base64"],
}
ANY = (
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.integers(-(2**63), 2**64)
    | st.floats(0, 2)
    | st.text(max_size=4)
    | st.lists(st.text(max_size=3), max_size=3)
    | st.lists(st.integers(-1, 9), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.integers() | st.booleans(), max_size=2)
)


@cache
def validator(model: type[WireModel]) -> Draft202012Validator:
    schema = request_schema(model)()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def names(model: type[WireModel]) -> list[str]:
    return sorted(set(validator(model).schema["properties"]) - MODEL_OPTIONS.keys())


def bodies(model: type[WireModel]) -> st.SearchStrategy[dict[str, Any]]:
    def value(name: str) -> st.SearchStrategy[Any]:
        return st.sampled_from(GOOD[name]) | ANY if name in GOOD else ANY

    def body(chosen: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        fields = st.fixed_dictionaries({name: value(name) for name in chosen})
        return fields.map(lambda given: {**REQUESTS[model][1], **given})

    return st.lists(st.sampled_from(names(model)), min_size=1, max_size=3, unique=True).flatmap(body)


@pytest.mark.parametrize("model", MODELS)
def test_what_works_is_allowed(model: type[WireModel]) -> None:
    worked: list[int] = []

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(bodies(model))
    def check(body: dict[str, Any]) -> None:
        try:
            REQUESTS[model][0](body)
        except LocalLLMError:
            return
        worked.append(1)
        assert not [error.message for error in validator(model).iter_errors(body)]

    check()
    assert len(worked) >= 3


@pytest.mark.parametrize("model", MODELS)
def test_each_form_of_each_field_works_and_is_allowed(model: type[WireModel]) -> None:
    parse, smallest = REQUESTS[model]
    refused: list[str] = []
    for name in sorted(GOOD.keys() & set(names(model))):
        for value in GOOD[name]:
            body = {**smallest, name: value, **({"stream": True} if name == "stream_options" else {})}
            if (model is ChatCompletionRequest) or name != "prompt":
                parse(body)
            refused += [f"{name} {value}: {error.message}" for error in validator(model).iter_errors(body)]
    assert refused == []


@pytest.mark.parametrize("model", MODELS)
def test_null_is_allowed_where_absence_is(model: type[WireModel]) -> None:
    schema = validator(model).schema
    for name in schema["properties"]:
        body = {**REQUESTS[model][1], name: None}
        assert validator(model).is_valid(body) is (name not in schema["required"]), name


@pytest.mark.parametrize("model", MODELS)
def test_every_field_is_explained(model: type[WireModel]) -> None:
    schema = validator(model).schema
    definitions = {"": schema, **schema.get("$defs", {})}
    unexplained = [
        f"{definition}.{name}"
        for definition, inner in definitions.items()
        for name, field in inner["properties"].items()
        if len(field.get("description", "")) < 10
    ]
    assert unexplained == []


def test_nothing_is_explained_that_is_not_there() -> None:
    there = {name for model in MODELS for name in validator(model).schema["properties"]}
    assert set(FIELD_HELP) <= there
    assert set(FIELD_SCHEMAS) <= there
    nested = {
        f"{definition}.{name}"
        for model in MODELS
        for definition, inner in validator(model).schema.get("$defs", {}).items()
        for name in inner["properties"]
    }
    assert set(NESTED_HELP) == nested
    assert set(NESTED_SCHEMAS) <= nested


def test_all_names_of_a_field_are_there() -> None:
    fields = validator(ChatCompletionRequest).schema["properties"]
    assert fields["repetition_penalty"] == {
        **fields["repeat_penalty"],
        "description": "Another name of `repeat_penalty`.",
    }
    assert fields["n_predict"]["type"] == ["integer", "null"]


def test_endpoints_can_add_fields_and_meanings() -> None:
    schema = request_schema(EmbeddingRequest, help_texts={"input": "Mine."}, extra={"session_id": {"type": "string"}})()
    assert schema["properties"]["input"]["description"] == "Mine."
    assert schema["properties"]["session_id"] == {"type": "string"}
