from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest

from localllm import Constraint, InvalidRequestError, SamplingParams, UnavailableError
from localllm.contract.generation import ConstraintKind
from localllm_llama_cpp import grammars as module
from localllm_llama_cpp.grammars import Grammars
from tests.plugins.llama_cpp.sampler_kit import (
    CONTROL,
    END,
    MARKER,
    byte_grammars,
    factory,
)

GRAMMARS = byte_grammars()


def schema(value: object, *, strict: bool = True) -> Constraint:
    return Constraint("json_schema", json.dumps(value), strict)


def takes(constraint: Constraint, tokens: bytes | list[int]) -> bool:
    """Whether a grammar takes tokens to its end."""
    state = GRAMMARS.begin(constraint)
    for token in tokens:
        if not state.allows(token):
            return False
        state.take(token)
    return state.is_over or state.allows(END)


def refusal(constraint: Constraint, grammars: Grammars = GRAMMARS) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        grammars.compile(constraint)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("kind", "source", "right", "wrong"),
    [
        ("json_object", "", ['{"a": [1, {}]}', "{}"], ["[]", "1", "{", "{} "]),
        ("json_schema", '{"type": "integer", "minimum": 3, "maximum": 12}', ["3", "12"], ["2", "13", "x"]),
        ("json_schema", "true", ["1", '"x"', "[null]"], ["", "x"]),
        ("regex", "[a-c]+x?", ["a", "abcx"], ["", "xa"]),
        ("choice", '["red", "gr\\u00fcn", "red-ish", "\\"\\n"]', ["red", "grün", "red-ish", '"\n'], ["re", "redred"]),
        ("choice", '["", "a"]', ["", "a"], ["aa"]),
        ("lark", 'start: "a" b*\nb: /[0-9]/', ["a", "a12"], ["", "1"]),
        ("gbnf", 'root ::= "a" root?', ["a", "aaa"], ["", "b"]),
    ],
)
def test_each_kind_allows_its_texts_and_no_others(
    kind: ConstraintKind, source: str, right: list[str], wrong: list[str]
):
    constraint = Constraint(kind, source)
    assert GRAMMARS.compile(constraint) == ()
    assert [text for text in right if not takes(constraint, text.encode())] == []
    assert [text for text in wrong if takes(constraint, text.encode())] == []


def test_white_space_in_json_is_free_but_bounded():
    constraint = schema({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}})
    value = {"a": [1, 2, 3]}
    for text in (json.dumps(value), json.dumps(value, indent=4), json.dumps(value, separators=(",", ":"))):
        assert takes(constraint, text.encode())
    assert not takes(constraint, b"{" + b"\n" + b" " * 21 + b'"a": []}')
    assert not takes(constraint, b'{  "a": []}')
    assert not takes(constraint, b'{\n\n"a": []}')
    assert not takes(constraint, b"\n{}")


TAGS = {
    "structures": [
        {
            "begin": "<fn=a>",
            "schema": {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False},
            "end": "</fn>",
        },
        {"begin": "<fn=b>", "schema": {"enum": ["u", "v"]}, "end": "</fn>"},
        {"begin": "<mark>", "schema": {"type": "boolean"}, "end": "<mark>"},
    ],
    "triggers": ["<fn=", "<mark>"],
}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("no call at all", True),
        ("", True),
        ('see <fn=a>{"x": 1}</fn> and <fn=b>"u"</fn>.', True),
        ("a < b <fn", True),
        ("<fn=c>", False),
        ("<fn=a>no", False),
        ('<fn=b>"w"</fn>', False),
        ('<fn=a>{"y": 1}</fn>', False),
        ("<fn=a>{}", False),
        ("<mark>true<mark>!", True),
        ("<mark>1", False),
    ],
)
def test_a_trigger_begins_a_structure(text, right):
    assert takes(Constraint("structural_tag", json.dumps(TAGS)), text.encode()) is right


def test_a_trigger_may_be_the_special_token_that_spells_it():
    constraint = Constraint("structural_tag", json.dumps(TAGS))
    assert takes(constraint, [*b"so: ", MARKER, *b"true", MARKER, *b" and ", MARKER, *b"false<mark>"])
    assert not takes(constraint, [MARKER, *b"1"])
    assert not takes(constraint, [CONTROL])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ('{"format": {}}', "needs 'structures'"),
        ('{"structures": [], "triggers": ["x"]}', "needs 'structures'"),
        ('{"structures": [{"begin": "<a>"}], "triggers": ["<"]}', r"structures\[0\] .* needs 'begin' and 'end'"),
        ('{"structures": [{"begin": "<a>", "end": ""}], "triggers": ["b", ""]}', "no trigger is a beginning of"),
        ('{"structures": [{"begin": "<a>", "end": "", "schema": 3}], "triggers": ["<"]}', "schema is an object"),
        ('{"structures": [{"begin": "\\ud800", "end": ""}], "triggers": ["\\ud800"]}', "surrogate"),
    ],
)
def test_a_structural_tag_that_is_none_is_refused(source, message):
    error = refusal(Constraint("structural_tag", source))
    assert re.search(message, error.message)
    assert error.param in ("structured_outputs", "response_format")


def test_what_a_strict_schema_asks_in_vain_is_refused_with_the_reason():
    for asked, reason in [
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "pattern": "^(?=a)b"}, "look-around, including look-ahead and look-behind"),
        ({"$ref": "https://example.com/s.json"}, "does not fetch resources"),
        ({"$ref": "#/$defs/none"}, "'/$defs/none' does not exist"),
        ({"type": "strnig"}, "Invalid type: strnig"),
    ]:
        error = refusal(schema(asked))
        assert reason in error.message
        assert error.param == "response_format"


def test_what_a_lenient_schema_asks_in_vain_is_left_out_with_a_warning():
    asked = {"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 3}}}, "required": ["a"]}
    (warning,) = GRAMMARS.compile(schema(asked, strict=False))
    assert 'not enforced. Unimplemented keys: ["not"]' in warning
    assert takes(schema(asked, strict=False), b'{"a": 3}')
    assert not takes(schema(asked, strict=False), b'{"b": 3}')


def test_a_lenient_schema_loses_no_more_than_it_must():
    object_with = {"type": "object", "additionalProperties": False}
    pattern = {**object_with, "properties": {"a": {"type": "string", "pattern": "(?=x)"}}, "required": ["a"]}
    (warning,) = GRAMMARS.compile(schema(pattern, strict=False))
    assert warning.startswith("The patterns in the JSON schema are not enforced. regex parse error")
    assert not takes(schema(pattern, strict=False), b'{"a": 1}')
    multiple = {**object_with, "properties": {"a": {"type": "integer", "multipleOf": 10**9}}, "required": ["a"]}
    (warning,) = GRAMMARS.compile(schema(multiple, strict=False))
    assert "common multiple" in warning
    assert not takes(schema(multiple, strict=False), b'{"a": "x"}')
    remote = {"type": "array", "items": {"$ref": "https://example.com/s.json"}}
    (warning,) = GRAMMARS.compile(schema(remote, strict=False))
    assert warning.startswith("Of the JSON schema, nothing is enforced but the type of the answer: array.")
    assert takes(schema(remote, strict=False), b"[1]")
    assert not takes(schema(remote, strict=False), b"{}")


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Constraint("json_schema", "{"), "can't be read"),
        (Constraint("json_schema", "3"), "is an object, not '3'"),
        (Constraint("json_schema", "false"), "is an object, not 'False'"),
        (Constraint("json_schema", '{"enum": ["' + "x" * 200_000 + '"]}'), "longer than 131072 bytes"),
        (Constraint("json_schema", '{"items": ' * 65 + "{}" + "}" * 65), "nested deeper than 64"),
        (Constraint("json_schema", '{"enum": [' + "[" * 65 + "]" * 65 + "]}"), "nested deeper than 64"),
        (Constraint("json_schema", "[" * 60_000), "can't be read"),
        (schema({"multipleOf": 99_999_989}), "common multiple of more than 100000"),
        (schema({"allOf": [{"multipleOf": 99_991}, {"multipleOf": 99_989}]}), "common multiple"),
        (schema({"allOf": [{"multipleOf": 1e-9}, {"multipleOf": 7}]}), "common multiple"),
        (schema({"multipleOf": 1e300}), "common multiple"),
        (Constraint("regex", "("), "can't be honoured: .*unclosed group"),
        (Constraint("regex", "(" * 60_000 + ")" * 60_000), "can't be honoured"),
        (Constraint("regex", "(?=a)"), "look-around"),
        (Constraint("regex", "\ud800"), "surrogate"),
        (Constraint("choice", "[]"), "at least one string"),
        (Constraint("choice", "[1]"), "at least one string"),
        (Constraint("choice", '"a"'), "must be a list of strings"),
        (Constraint("choice", '["\\udc00"]'), "surrogate"),
        (Constraint("choice", "[" * 60_000), "is not JSON"),
        (Constraint("lark", "start: nothing"), "can't be honoured"),
        (Constraint("lark", "start: " + "(" * 60_000), "can't be honoured: .*too deeply nested"),
        (Constraint("lark", "start: r0\n" + "\n".join(f"r{n}: r{n + 1}" for n in range(1500))), "more than 1000 rules"),
    ],
)
def test_what_is_wrong_or_too_much_is_refused(constraint, message):
    assert re.search(message, refusal(constraint).message)


def test_divisors_that_are_usual_are_allowed():
    constraint = schema({"items": {"multipleOf": 0.01}, "contains": True, "allOf": [{"multipleOf": 5}]}, strict=False)
    assert "common" not in "".join(GRAMMARS.compile(constraint))
    assert takes(schema({"type": "number", "multipleOf": 0.25}), b"1.75")
    assert not takes(schema({"type": "number", "multipleOf": 0.25}), b"1.8")


def test_a_chain_of_rules_as_long_as_may_be_compiles():
    links = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(3000)}
    constraint = schema({"$ref": "#/$defs/d0", "$defs": {**links, "d3000": {"type": "boolean"}}})
    assert GRAMMARS.compile(constraint) == ()
    assert takes(constraint, b"true")
    rules = "\n".join(f'r{n}: r{n + 1} "x"?' for n in range(900))
    assert GRAMMARS.compile(Constraint("lark", f'start: r0\n{rules}\nr900: "a"')) == ()


class Slow:
    """A compiler that works until it is told to stop."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun = threading.Semaphore(0)

    def __call__(self, text: str) -> Any:
        self.begun.release()
        self.go_on.wait(30)
        raise RuntimeError("nobody waits for this")


def test_a_compilation_that_takes_too_long_is_given_up():
    slow = Slow()
    grammars = byte_grammars(build=slow, compile_seconds=0.05)
    for number in range(3):
        assert "takes more than 0.05 s to compile" in refusal(Constraint("regex", str(number)), grammars).message
        assert slow.begun.acquire(timeout=20)
    with pytest.raises(UnavailableError, match="try again later"):  # no more than three at a time
        grammars.compile(Constraint("regex", "4"))
    assert not slow.begun.acquire(timeout=0.1)
    slow.go_on.set()


def test_what_goes_wrong_in_the_compiler_is_not_swallowed():
    def broken(text: str) -> Any:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        byte_grammars(build=broken).compile(Constraint("regex", "a"))


class Counting:
    """Counts what is compiled, by the byte grammars' own compiler."""

    def __init__(self) -> None:
        self.grammars = byte_grammars()
        self.n = 0
        build = self.grammars._build

        def count(text: str) -> Any:
            self.n += 1
            return build(text)

        self.grammars._build = count


def test_a_grammar_is_compiled_once_and_the_oldest_is_forgotten():
    counting = Counting()
    first = Constraint("regex", "a0")
    for number in range(module.CACHED_GRAMMARS):
        counting.grammars.compile(Constraint("regex", f"a{number}"))
    counting.grammars.begin(first)
    assert counting.n == module.CACHED_GRAMMARS
    counting.grammars.compile(Constraint("regex", "new"))
    counting.grammars.begin(first)  # used since the others
    assert counting.n == module.CACHED_GRAMMARS + 1
    counting.grammars.begin(Constraint("regex", "a1"))
    assert counting.n == module.CACHED_GRAMMARS + 2


def test_large_grammars_are_forgotten_sooner():
    counting = Counting()
    large = [Constraint("choice", json.dumps([f"{number} " + "x" * 120_000])) for number in range(12)]
    for constraint in large:
        counting.grammars.compile(constraint)
    counting.grammars.begin(large[-1])
    assert counting.n == 12
    counting.grammars.begin(large[0])
    assert counting.n == 13


def test_kinds_and_strictness_are_told_apart():
    assert takes(Constraint("regex", "a|b"), b"b")
    assert takes(Constraint("choice", '["a|b"]'), b"a|b")
    asked = {"type": "string", "format": "nonsense"}
    assert GRAMMARS.compile(schema(asked, strict=False))
    refusal(schema(asked))


def test_a_closed_model_lets_go_of_its_vocabulary():
    grammars = byte_grammars()
    grammars.compile(Constraint("regex", "a"))
    grammars.close()
    with pytest.raises(RuntimeError, match="closed"):
        grammars.compile(Constraint("regex", "a"))


def test_the_factory_finds_grammars_that_were_not_compiled_before():
    make = factory(grammars=byte_grammars())
    make(SamplingParams(constraint=Constraint("regex", "a")), ()).close()
    with pytest.raises(InvalidRequestError):
        make(SamplingParams(constraint=Constraint("regex", "(")), ())
