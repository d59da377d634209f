"""The strict decoder: what it takes equals what the JSON parser gives, and what it refuses is always typed."""

from __future__ import annotations

import json
import os

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.contract.errors import InvalidRequestError
from localllm.server.errors import UnsupportedMediaTypeError
from localllm.server.json_body import MAX_DEPTH, check_content_type, check_nesting, nesting_exceeds, parse_object

EXAMPLES = 2000 if os.environ.get("LOCALLLM_TEST_FULL") else 150

REFUSED = {
    "empty": b"",
    "blank": b" \n",
    "nan": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "overflow": b'{"a": 1e999}',
    "long integer": b'{"a": ' + b"9" * 5000 + b"}",
    "lone surrogate": b'{"a": "\\ud800"}',
    "swapped surrogates": b'{"a": "\\udc00\\ud800"}',
    "surrogate key": b'{"\\udfff": 1}',
    "encoded surrogate": b'{"a": "\xed\xa0\x80"}',
    "latin-1": b'{"a": "\xe9"}',
    "overlong": b'{"a": "\xc0\xaf"}',
    "bom": b"\xef\xbb\xbf{}",
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "utf-32": '{"a": 1}'.encode("utf-32"),
    "trailing comma": b'{"a": 1,}',
    "two documents": b"{}{}",
    "single quotes": b"{'a': 1}",
    "raw control": b'{"a": "\x01"}',
    "truncated": b'{"a": "b',
    "array": b"[1]",
    "string": b'"a"',
    "number": b"1",
    "null": b"null",
    "true": b"true",
    "open arrays": b"[" * 1_000_000,
    "open objects": b'{"a":' * 200_000,
    "closed too often": b"]" * 1000,
    "balanced": b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
}


def parse(body: bytes) -> dict[str, object]:
    check_nesting(body)
    return parse_object(body)


@pytest.mark.parametrize("fault", REFUSED)
def test_refuses(fault: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(REFUSED[fault])
    assert len(caught.value.message) < 300


def test_keeps_what_is_unusual_but_valid() -> None:
    assert parse(b'{"a": "\\u0000", "b": "\\ud83d\\ude00", "c": 18446744073709551615, "a2": -0.0}') == {
        "a": "\0",
        "b": "😀",
        "c": 2**64 - 1,
        "a2": -0.0,
    }
    assert parse(b'{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize(("depth", "deep"), [(1, False), (MAX_DEPTH - 1, False), (MAX_DEPTH, True), (500, True)])
def test_depth_is_exact(depth: int, deep: bool) -> None:
    body = b'{"a":' + b'[{"b":' * (depth // 2) + b"[" * (depth % 2) + b"0" + b"]" * (depth % 2) + b"}]" * (depth // 2)
    assert nesting_exceeds(body + b"}", MAX_DEPTH) is deep


@pytest.mark.parametrize(
    "text",
    ["[" * 500, "{[" * 500, '\\"' + "[" * 500, "\\\\" * 99, "\\" * 99 + '"[', '"[' * 100, '",[",{' * 200, "]" * 500],
)
def test_brackets_in_strings_do_not_count(text: str) -> None:
    value = {"a": text, text: [text, {"b": text}], "c": [text] * 70}
    assert parse(orjson.dumps(value)) == value


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(['["', "\\", '\\"[{', '"', "[[{{"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=30,
)


@settings(max_examples=EXAMPLES)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values), st.booleans())
def test_equals_the_parser_on_valid_input(value: dict[str, object], spaced: bool) -> None:
    body = json.dumps(value, ensure_ascii=spaced, indent=2 if spaced else None).encode()
    assert parse(body) == orjson.loads(body)


@settings(max_examples=EXAMPLES)
@given(json_values, st.integers(1, 8))
def test_depth_equals_a_walk_over_the_value(value: object, limit: int) -> None:
    def depth(part: object) -> int:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else None
        return 0 if inner is None else 1 + max((depth(one) for one in inner), default=0)

    assert nesting_exceeds(orjson.dumps(value), limit) is (depth(value) > limit)


fragments = st.sampled_from(
    [b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b"1", b"NaN", b"\\u", b"d800", b"\xff", b"a"]
)


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=200) | st.lists(fragments, max_size=80).map(b"".join))
def test_any_bytes_give_an_object_or_a_typed_error(body: bytes) -> None:
    try:
        value = parse(body)
    except InvalidRequestError:
        return
    assert value == orjson.loads(body)
    orjson.dumps(value)  # whole strings and finite numbers only


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON ; charset=UTF-8", 'application/json;charset="utf-8"', "application/x+json"],
)
def test_json_content_types(content_type: str) -> None:
    check_content_type(content_type)


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json",
     "application/json; charset=utf-16", "application/jsonx", "application/json, text/plain"],
)  # fmt: skip
def test_other_content_types(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        check_content_type(content_type)
