"""What an answer must match, in all its spellings: one constraint, or an error that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError
from localllm.contract.generation import Constraint
from localllm.openai import parse_chat, parse_completion
from localllm.openai.structured import MAX_GRAMMAR_BYTES, MAX_LISTED_ANSWERS, MAX_REGEX_BYTES, MAX_SCHEMA_BYTES

Read = Callable[..., Constraint | None]
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {}}, "required": ["b"]}
TEXT = '{"type":"object","properties":{"b":{"type":"string"},"a":{}},"required":["b"]}'  # in the schema's own order
GBNF = 'root ::= "yes" | "no"'
LARK = 'start: "yes" | "no"'
TAG = {"type": "structural_tag", "structures": [{"begin": "<f>", "schema": {}, "end": "</f>"}], "triggers": ["<f>"]}
TAG_TEXT = json.dumps(TAG, separators=(",", ":"))


def of_chat(**fields: Any) -> Constraint | None:
    return (
        parse_chat({"messages": [{"role": "user", "content": "Hi"}], **fields}).generate_request().sampling.constraint
    )


def of_completion(**fields: Any) -> Constraint | None:
    return parse_completion({"prompt": "Hi", **fields}).generate_requests()[0].sampling.constraint


BOTH = pytest.mark.parametrize("read", [of_chat, of_completion])


def wrapped(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": fields}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


@BOTH
@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("response_format", {"type": "text"}, None),
        ("response_format", {}, None),
        ("response_format", {"type": "json_object"}, Constraint("json_object")),
        ("response_format", {"type": "json_object", "schema": None}, Constraint("json_object")),
        ("response_format", {"type": "json_object", "schema": {}}, Constraint("json_object")),
        ("response_format", {"type": "json_object", "schema": SCHEMA}, Constraint("json_schema", TEXT, strict=False)),
        ("response_format", wrapped(name="x", schema=SCHEMA, strict=True), Constraint("json_schema", TEXT)),
        ("response_format", wrapped(schema=SCHEMA, strict=False), Constraint("json_schema", TEXT, strict=False)),
        ("response_format", wrapped(schema=SCHEMA, strict=None), Constraint("json_schema", TEXT, strict=False)),
        ("response_format", wrapped(schema={}, name=None), Constraint("json_schema", "{}", strict=False)),
        ("response_format", TAG, Constraint("structural_tag", TAG_TEXT)),
        ("structured_outputs", {"json": SCHEMA}, Constraint("json_schema", TEXT)),
        ("structured_outputs", {"json": json.dumps(SCHEMA)}, Constraint("json_schema", TEXT)),
        ("structured_outputs", {"json": {}}, Constraint("json_schema", "{}")),
        ("structured_outputs", {"regex": "[0-9]+", "json": None}, Constraint("regex", "[0-9]+")),
        ("structured_outputs", {"choice": ["no", "yes", "no"]}, Constraint("choice", '["no","yes"]')),
        ("structured_outputs", {"grammar": LARK}, Constraint("lark", LARK)),
        ("structured_outputs", {"grammar": GBNF}, Constraint("gbnf", GBNF)),
        ("structured_outputs", {"structural_tag": TAG}, Constraint("structural_tag", TAG_TEXT)),
        ("structured_outputs", {"structural_tag": json.dumps(TAG)}, Constraint("structural_tag", TAG_TEXT)),
        ("structured_outputs", {"json_object": True}, Constraint("json_object")),
        ("structured_outputs", {"json_object": False, "regex": "a"}, Constraint("regex", "a")),
        ("structured_outputs", {"regex": "a", "disable_any_whitespace": False}, Constraint("regex", "a")),
        ("guided_json", SCHEMA, Constraint("json_schema", TEXT)),
        ("guided_json", json.dumps(SCHEMA), Constraint("json_schema", TEXT)),
        ("guided_regex", "a|b", Constraint("regex", "a|b")),
        ("guided_choice", ["ä", "b"], Constraint("choice", '["ä","b"]')),
        ("guided_grammar", LARK, Constraint("lark", LARK)),
        ("guided_grammar", GBNF, Constraint("gbnf", GBNF)),
        ("json_schema", SCHEMA, Constraint("json_schema", TEXT, strict=False)),
        ("json_schema", json.dumps(SCHEMA), Constraint("json_schema", TEXT, strict=False)),
        ("json_schema", {}, Constraint("json_object")),
        ("grammar", GBNF, Constraint("gbnf", GBNF)),
        ("grammar", "", None),
        ("guided_json", nested(64), Constraint("json_schema", json.dumps(nested(64), separators=(",", ":")))),
    ],
)
def test_constraint_reaches_the_engine(read: Read, field: str, value: Any, expected: Constraint | None) -> None:
    constraint = read(**{field: value})
    assert constraint == expected
    assert constraint is None or constraint.param == field  # an engine that can't honour it says so by that name


FIELDS = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")


@BOTH
@pytest.mark.parametrize("field", [*FIELDS, "json_schema", "grammar"])
def test_null_is_no_constraint(read: Read, field: str) -> None:
    assert read(**{field: None}) is None


LONG = {"description": "x" * MAX_SCHEMA_BYTES}
BAD: list[tuple[str, Any, str]] = [
    *(("response_format", value, "response_format") for value in (5, "json", True, [], [{"type": "text"}])),
    *(("response_format", {"type": value}, "response_format.type") for value in (5, "xml", None, True, ["text"])),
    ("response_format", {"schema": {}}, "response_format.type"),
    ("response_format", {"type": "json_object", "schema": 5}, "response_format.schema"),
    ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
    ("response_format", {"type": "json_schema", "json_schema": None}, "response_format.json_schema"),
    ("response_format", {"type": "json_schema", "json_schema": []}, "response_format.json_schema"),
    ("response_format", wrapped(name="x"), "response_format.json_schema.schema"),
    ("response_format", wrapped(schema=None), "response_format.json_schema.schema"),
    ("response_format", wrapped(schema="{}"), "response_format.json_schema.schema"),
    ("response_format", wrapped(schema=True), "response_format.json_schema.schema"),
    ("response_format", wrapped(schema={}, name=5), "response_format.json_schema.name"),
    ("response_format", wrapped(schema={}, strict="yes"), "response_format.json_schema.strict"),
    ("response_format", wrapped(schema={}, strict=1), "response_format.json_schema.strict"),
    ("response_format", wrapped(schema=LONG), "response_format.json_schema.schema"),
    ("response_format", wrapped(schema={"enum": ["\ud800"]}), "response_format.json_schema.schema"),
    ("response_format", wrapped(schema={"maximum": 2**70}), "response_format.json_schema.schema"),
    ("response_format", wrapped(schema=nested(65)), "response_format.json_schema.schema"),
    *(("structured_outputs", value, "structured_outputs") for value in (5, "json", True, [], {})),
    ("structured_outputs", {"json": None, "regex": None}, "structured_outputs"),
    ("structured_outputs", {"json": {}, "regex": "a"}, "structured_outputs"),
    ("structured_outputs", {"xml": {}}, "structured_outputs"),
    ("structured_outputs", {"json": 5}, "structured_outputs.json"),
    ("structured_outputs", {"json": "{"}, "structured_outputs.json"),
    ("structured_outputs", {"json": "[]"}, "structured_outputs.json"),
    ("structured_outputs", {"json": ""}, "structured_outputs.json"),
    ("structured_outputs", {"json": "[" * 100_000}, "structured_outputs.json"),
    ("structured_outputs", {"json": json.dumps(nested(65))}, "structured_outputs.json"),
    ("structured_outputs", {"json": json.dumps(LONG)}, "structured_outputs.json"),
    ("structured_outputs", {"regex": 5}, "structured_outputs.regex"),
    ("structured_outputs", {"regex": ""}, "structured_outputs.regex"),
    ("structured_outputs", {"regex": "a" * (MAX_REGEX_BYTES + 1)}, "structured_outputs.regex"),
    ("structured_outputs", {"regex": "\ud800"}, "structured_outputs.regex"),
    ("structured_outputs", {"choice": "yes"}, "structured_outputs.choice"),
    ("structured_outputs", {"choice": []}, "structured_outputs.choice"),
    ("structured_outputs", {"choice": ["a", 5]}, "structured_outputs.choice[1]"),
    ("structured_outputs", {"choice": ["a", ""]}, "structured_outputs.choice[1]"),
    ("structured_outputs", {"choice": ["a" * 4097]}, "structured_outputs.choice[0]"),
    ("structured_outputs", {"choice": [f"{n:04}" * 1000 for n in range(40)]}, "structured_outputs.choice"),
    ("structured_outputs", {"choice": ["a"] * (MAX_LISTED_ANSWERS + 1)}, "structured_outputs.choice"),
    ("structured_outputs", {"grammar": ""}, "structured_outputs.grammar"),
    ("structured_outputs", {"grammar": {}}, "structured_outputs.grammar"),
    ("structured_outputs", {"structural_tag": 5}, "structured_outputs.structural_tag"),
    ("structured_outputs", {"structural_tag": "{"}, "structured_outputs.structural_tag"),
    ("structured_outputs", {"json_object": "yes"}, "structured_outputs.json_object"),
    *(("guided_json", value, "guided_json") for value in (5, True, [], "", "{", "null")),
    *(("guided_regex", value, "guided_regex") for value in (5, True, [], {}, "")),
    *(("guided_choice", value, "guided_choice") for value in (5, True, {}, "a", [])),
    ("guided_choice", [5], "guided_choice[0]"),
    *(("guided_grammar", value, "guided_grammar") for value in (5, True, [], {}, "", "x" * (MAX_GRAMMAR_BYTES + 1))),
    *(("json_schema", value, "json_schema") for value in (5, True, [], "", "{")),
    *(("grammar", value, "grammar") for value in (5, True, [], {}, "x" * (MAX_GRAMMAR_BYTES + 1), "ä" * 40_000)),
]


@BOTH
@pytest.mark.parametrize(("field", "value", "param"), BAD)
def test_bad_constraint_is_refused_by_path(read: Read, field: str, value: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(**{field: value})
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param} ")
    assert len(caught.value.message) < 300


@BOTH
@pytest.mark.parametrize(
    ("fields", "second"),
    [
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"guided_regex": "a", "guided_json": {}}, "guided_regex"),
        ({"grammar": GBNF, "json_schema": {}}, "grammar"),
        ({"grammar": GBNF, "response_format": {"type": "json_object"}}, "grammar"),
    ],
)
def test_two_constraints_are_refused_by_both_names(read: Read, fields: dict[str, Any], second: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read(**fields)
    assert caught.value.param == second
    assert all(name in caught.value.message for name in fields)


@BOTH
def test_format_that_asks_for_nothing_goes_with_any_constraint(read: Read) -> None:
    assert read(response_format={"type": "text"}, grammar=GBNF) == Constraint("gbnf", GBNF)
    assert read(response_format={"type": "json_object"}, grammar="") == Constraint("json_object")


@BOTH
@pytest.mark.parametrize("option", ["disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"])
def test_options_that_would_change_the_grammar_are_not_ignored(read: Read, option: str) -> None:
    with pytest.raises(UnsupportedFeatureError) as caught:
        read(structured_outputs={"json": SCHEMA, option: True})
    assert caught.value.param == f"structured_outputs.{option}"
