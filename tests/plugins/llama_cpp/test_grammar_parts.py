"""A frame that refers to parts: what holds for a constraint by itself holds for each of its parts."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from localllm import Constraint, InvalidRequestError
from localllm_llama_cpp import grammar_compiler as module
from tests.plugins.llama_cpp.grammar_kit import schema
from tests.plugins.llama_cpp.sampler_kit import CONTROL, END, MARKER, byte_grammars

GRAMMARS = byte_grammars()


def framed(*parts: Constraint, frame: str = "") -> Constraint:
    start = frame or "start: " + ' "/" '.join(f"@part{number}" for number in range(len(parts)))
    return Constraint("lark", start, param="tools", parts=parts)


def takes(constraint: Constraint, text: bytes | list[int]) -> bool:
    state = GRAMMARS.begin(constraint)
    for token in text:
        if state.is_over or not state.allows(token):
            return False
        state.take(token)
    return state.is_over or state.allows(END)


def refusal(constraint: Constraint) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        GRAMMARS.compile(constraint)
    assert "\n" not in caught.value.message
    return caught.value


TAG = {"structures": [{"begin": "<mark>", "schema": {"enum": [1]}, "end": ";"}], "triggers": ["<mark>"]}


@pytest.mark.parametrize(
    ("part", "right", "wrong"),
    [
        (Constraint("json_object"), b'{"a": {}}', b"[]"),
        (schema({"type": "integer"}), b"12", b"x"),
        (schema({"type": "integer", "not": {}}, strict=False), b"12", b"x"),
        (Constraint("regex", "[ab]{2}"), b"ab", b"a"),
        (Constraint("choice", '["x\\u007f", "y"]'), b"x\x7f", b"x"),
        (Constraint("lark", 'start: "a" b\nb: "b" | start'), b"aab", b"aa"),
        (Constraint("gbnf", 'root ::= "a" root | "b"'), b"aab", b"aa"),
        (Constraint("structural_tag", json.dumps(TAG)), [*b"so ", MARKER, *b"1;"], [MARKER, *b"2;"]),
    ],
)
def test_a_part_may_be_of_any_kind(part: Constraint, right: Any, wrong: Any) -> None:
    constraint = framed(part, frame='start: "(" @part0 ")"')
    if part.kind == "structural_tag":
        constraint = framed(part)  # free text that goes on up to the end
        assert takes(constraint, right)
        assert not takes(constraint, wrong)
        return
    assert takes(constraint, [*b"(", *right, *b")"])
    assert not takes(constraint, [*b"(", *wrong, *b")"])
    assert not takes(constraint, right)


def test_parts_are_known_by_their_numbers() -> None:
    constraint = framed(*(Constraint("choice", json.dumps([str(number)])) for number in range(12)))
    assert takes(constraint, "/".join(map(str, range(12))).encode())
    assert not takes(constraint, "/".join(map(str, reversed(range(12)))).encode())


def test_a_part_is_named_by_where_it_comes_from() -> None:
    bad = schema({"not": {}})
    assert refusal(framed(Constraint("regex", "a"), bad)).param == "response_format"
    assert refusal(framed(Constraint("regex", "a"), Constraint("regex", "("))).param == "structured_outputs"
    error = refusal(framed(replace(bad, param="tools", title="The parameters of tool 'x'")))
    assert error.param == "tools"
    assert error.message.startswith("The parameters of tool 'x' can't be honoured: Unimplemented keys")
    assert refusal(framed(schema({}), frame="start: @part7")).param == "tools"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (schema({"enum": ["x" * 200_000]}), "longer than 131072 bytes"),
        (Constraint("json_schema", '{"items": ' * 65 + "{}" + "}" * 65), "nested deeper than 64"),
        (schema({"multipleOf": 99_999_989}), "common multiple"),
        (Constraint("lark", "start: r0\n" + "\n".join(f"r{n}: r{n + 1}" for n in range(1500))), "more than 1000 rules"),
        (Constraint("gbnf", "root ::= " + "(" * 60_000), "parentheses are open"),
    ],
)
def test_the_limits_of_constraints_are_those_of_parts(part: Constraint, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        GRAMMARS.compile(framed(schema({}), part))


def test_a_lenient_part_loses_no_more_than_it_must_and_says_whose_it_is() -> None:
    odd = schema({"type": "array", "items": {"$ref": "https://example.com/s.json"}}, strict=False)
    other = schema({"type": "string", "pattern": "(?=x)"}, strict=False)
    constraint = framed(replace(odd, title="The parameters of tool 'x'"), schema({"type": "integer"}), other)
    first, second = GRAMMARS.compile(constraint)
    assert first.startswith("The parameters of tool 'x': Of the JSON schema, nothing is enforced but the type")
    assert second.startswith("The patterns in the JSON schema are not enforced.")
    assert takes(constraint, b'[5]/3/"y"')
    for wrong in (b'5/3/"y"', b'[5]/x/"y"', b"[5]/3/4"):
        assert not takes(constraint, wrong)


def test_frames_are_told_apart_by_their_parts() -> None:
    first, second = framed(Constraint("regex", "a")), framed(Constraint("regex", "b"))
    assert takes(first, b"a")
    assert takes(second, b"b")
    assert not takes(second, b"a")
    assert takes(framed(Constraint("choice", '["a"]'), Constraint("choice", '["b"]')), b"a/b")
    assert takes(framed(Constraint("choice", '["a"]'), Constraint("regex", "c")), b"a/c")
    odd = {"type": "string", "format": "nonsense"}
    assert GRAMMARS.compile(framed(schema(odd, strict=False)))
    refusal(framed(schema(odd)))


def test_a_frame_is_compiled_once_where_all_goes_well() -> None:
    grammars, built = byte_grammars(), []
    build = grammars._build
    grammars._build = lambda text: (built.append(text), build(text))[1]
    for _ in range(2):
        grammars.compile(framed(*(schema({"const": number}) for number in range(5))))
    assert len(built) == 1


def test_lenient_parts_too_large_together_are_left_out_and_strict_ones_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PARTS_BYTES", 300)
    lenient = schema({"type": "object", "properties": {"a" * 150: {"type": "integer"}}}, strict=False)
    strict = schema({"type": "integer"})
    text = json.dumps({"a" * 150: "no integer"}).encode() + b"/"
    assert not takes(framed(lenient, strict), text + b"7")
    other = replace(lenient, source=lenient.source.replace("a" * 150, "b" * 150))
    constraint = framed(lenient, strict, other)
    warnings = GRAMMARS.compile(constraint)
    assert len(warnings) == 1
    assert "nothing is enforced but the type of the answer: object. All together are too large." in warnings[0]
    assert takes(constraint, text + b"7/{}")
    assert not takes(constraint, text + b"x/{}")
    assert "more than 300 bytes" in refusal(framed(*(replace(part, strict=True) for part in (lenient, other)))).message


def test_what_is_lenient_is_left_out_where_it_takes_too_long_to_compile() -> None:
    go_on = threading.Event()
    grammars = byte_grammars(compile_seconds=1.0)
    build = grammars._build

    def slow(text: str) -> Any:
        if "slow" in text:
            go_on.wait(30)
        return build(text)

    grammars._build = slow
    lenient = schema({"type": "object", "required": ["slow"]}, strict=False)
    for constraint in (lenient, framed(Constraint("regex", "a"), lenient)):
        (warning,) = grammars.compile(constraint)
        assert "nothing is enforced but the type" in warning
        assert "more than 1 s to compile" in warning
    go_on.set()
    strict = framed(schema({"type": "object", "required": ["slow too"]}))
    go_on.clear()
    with pytest.raises(InvalidRequestError, match=r"takes more than 1 s to compile; make it simpler"):
        grammars.compile(strict)
    go_on.set()


@pytest.mark.parametrize("source", ["start: @part0", 'start: @part0 | "a"', 'start: "a" @part0 | "a"'])
def test_a_part_that_refers_to_itself_does_no_harm(source: str) -> None:
    constraint = framed(Constraint("lark", source))
    assert takes(constraint, b"a") is (source != "start: @part0")
    assert not takes(constraint, b"b")


def test_lark_is_not_taken_for_the_compilers_own_json() -> None:
    """Which knows schemas that nobody has looked over."""
    own = json.dumps({"grammars": [{"json_schema": {"multipleOf": 7}}]})
    assert "can't be honoured" in refusal(Constraint("lark", own)).message
    assert "can't be honoured" in refusal(framed(Constraint("lark", own))).message


def test_special_tokens_are_found_by_their_spelling() -> None:
    assert GRAMMARS.special_token("<mark>") == MARKER
    assert GRAMMARS.special_token("<mark") is None
    assert GRAMMARS.special_token("a") is None
    assert GRAMMARS.special_token("") is None
    assert takes(Constraint("lark", f'start: "a" <[{CONTROL}]>'), [97, CONTROL])
