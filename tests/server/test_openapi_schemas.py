"""Schemas that are brought together in one document still mean what each of them meant."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from localllm.server.openapi_schemas import COMPONENTS, SchemaShelf, rewrite

EXAMPLES = 2000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 150

NAMES = ("A", "B", "C")
LEAVES = st.sampled_from([{"type": "integer"}, {"type": "string"}, {"const": {"$ref": "#/$defs/A"}}, {"type": "null"}])
REFERENCES = st.sampled_from([{"$ref": f"#/$defs/{name}"} for name in NAMES])


def compose(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.builds(lambda items: {"type": "array", "items": items}, inner)
        | st.builds(lambda choices: {"anyOf": choices}, st.lists(inner, min_size=1, max_size=2))
        | st.builds(
            lambda fields: {"type": "object", "properties": fields, "additionalProperties": False},
            st.dictionaries(st.sampled_from(["$ref", "items", "default", "x"]), inner, max_size=2),
        )
    )


# A definition that refers to itself does so inside of an array: schemas that are nothing but each other mean nothing.
PLAIN = st.recursive(LEAVES, compose, max_leaves=4)
DEFINITIONS = st.fixed_dictionaries(
    {name: PLAIN | st.builds(lambda items: {"type": "array", "items": items}, REFERENCES) for name in NAMES}
)
WHOLE = st.builds(
    lambda root, defs, title: {**root, "$defs": defs, **({"title": title} if title else {})},
    st.recursive(LEAVES | REFERENCES, compose, max_leaves=4),
    DEFINITIONS,
    st.sampled_from(["", "A", "Root", "not a name"]),
)
VALUES = st.recursive(
    st.sampled_from([1, "x", None, {"$ref": "#/$defs/A"}]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["$ref", "items", "default", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(WHOLE, min_size=1, max_size=4), st.lists(VALUES, max_size=6))
def test_what_a_schema_allows_stays_the_same_in_any_company(schemas: list[dict[str, Any]], values: list[Any]) -> None:
    shelf = SchemaShelf()
    placed = [shelf.place(schema) for schema in schemas]
    for before, after in zip(schemas, placed, strict=True):
        whole = {**after, "components": {"schemas": shelf.schemas}}
        Draft202012Validator.check_schema(whole)
        for value in values:
            assert Draft202012Validator(whole).is_valid(value) is Draft202012Validator(before).is_valid(value)


class Point(BaseModel):
    x: int


class Line(BaseModel):
    points: list[Point]


class Tree(BaseModel):
    children: list[Tree]


def test_what_is_the_same_is_kept_once() -> None:
    shelf = SchemaShelf()
    assert shelf.place(Line.model_json_schema) == {"$ref": COMPONENTS + "Line"}
    assert shelf.place(Point.model_json_schema()) == {"$ref": COMPONENTS + "Point"}
    assert sorted(shelf.schemas) == ["Line", "Point"]


def test_what_is_another_thing_of_the_same_name_gets_a_name_of_its_own() -> None:
    shelf = SchemaShelf()
    shelf.place({"title": "Point", "type": "integer"})
    placed = shelf.place(Line.model_json_schema)
    assert placed == {"$ref": COMPONENTS + "Line"}
    assert shelf.schemas["Line"]["properties"]["points"]["items"] == {"$ref": COMPONENTS + "Point2"}


def test_a_schema_that_contains_itself() -> None:
    shelf = SchemaShelf()
    assert shelf.place(Tree.model_json_schema) == {"$ref": COMPONENTS + "Tree"}
    assert Draft202012Validator({"$ref": COMPONENTS + "Tree", "components": {"schemas": shelf.schemas}}).is_valid(
        {"children": [{"children": []}]}
    )


def test_references_inside_of_values_are_values() -> None:
    schema = {
        "properties": {"default": {"$ref": "#/$defs/A"}},
        "default": {"$ref": "#/$defs/A"},
        "examples": [{"$ref": "#/$defs/A"}],
        "discriminator": {"propertyName": "kind", "mapping": {"a": "#/$defs/A"}},
    }
    renamed = rewrite(schema, {"#/$defs/A": "#/new"}.get)
    assert renamed["properties"] == {"default": {"$ref": "#/new"}}
    assert renamed["default"] == {"$ref": "#/$defs/A"}
    assert renamed["examples"] == [{"$ref": "#/$defs/A"}]
    assert renamed["discriminator"] == {"propertyName": "kind", "mapping": {"a": "#/new"}}
