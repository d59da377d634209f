from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import Constraint, InvalidRequestError
from localllm_llama_cpp.constraint_error import ConstraintError
from localllm_llama_cpp.gbnf import parse_gbnf
from localllm_llama_cpp.gbnf_convert import convert_gbnf
from tests.plugins.llama_cpp.sampler_kit import END, byte_grammars

GRAMMARS = byte_grammars()

JSON_GRAMMAR = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::= "[" ws ( value ("," ws value)* )? "]" ws   # a comment
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def matches(source: str, text: str) -> bool:
    """Whether a grammar takes a text to its end."""
    state = GRAMMARS.begin(Constraint("gbnf", source))
    for token in text.encode():
        if not state.allows(token):
            return False
        state.take(token)
    return state.is_over or state.allows(END)


@pytest.mark.parametrize(
    ("source", "right", "wrong"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["", "y", "yesno"]),
        ('root ::= [a-z]* "end"', ["end", "the end".replace(" ", ""), "endend"], ["en", "endx"]),
        ('root ::= ("a" | "ab") "bc"', ["abc", "abbc"], ["ab", "abb"]),
        ('root ::= ("a" | "ab") "bc" root?', ["abc", "abbcabc"], ["abcab"]),
        ('root ::= "(" [a-zé]* "end" root? ")"', ["(foéend)", "(end(end))"], ["(foo)", "(end"]),
        ('root ::= "a"{2,3} "b"{2} "c"{1,}', ["aabbc", "aaabbccc"], ["abbc", "aabb", "aaaabbc"]),
        ('root ::= "" | "x"', ["", "x"], ["xx"]),
        ("root ::= [^a-c\\n\\]] .", ["]x"[1:] + "\n", "é☃"], ["ax", "\nx", "]x", "x"]),
        ('root ::= "\\x41\\u00e9\\U0001F600\\t\\"\\\\" [\\-a]', ['Aé😀\t"\\-', 'Aé😀\t"\\a'], ['Aé😀\t"\\b']),
        ("root ::= [a-] [+-]", ["a-", "-+"], ["b-", "aa"]),
        ("root ::= item{3}\nitem ::= [0-9]+ sep\nsep ::= [,;]", ["1,22;333,"], ["1,2", ",1,2,"]),
        ("a-b ::= [0-9]\nroot ::=\n  a-b # first\n  | a-b a-b", ["1", "12"], ["123", ""]),
        ('root ::= ("x" ("y" root)*)+', ["x", "xyx", "xxyxyx"], ["y", "xy"]),
        (JSON_GRAMMAR, ['{"a": [1, 2.5e3, true, null, "x\\n é"]}', "{}"], ['{"a":}', "[1]", "{,}", '{"a":1']),
    ],
)
def test_a_grammar_allows_its_own_texts_and_no_others(source, right, wrong):
    assert [text for text in right if not matches(source, text)] == []
    assert [text for text in wrong if matches(source, text)] == []


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aé☃ ", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", max_size=3), values, max_size=3))
def test_any_json_object_matches_the_usual_grammar_of_json(value):
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "")
    assert matches(JSON_GRAMMAR, text)
    assert not matches(JSON_GRAMMAR, text[:-1])


nodes = st.recursive(
    st.sampled_from(['"a"', '"b"', '"ab"', "[ab]", "[^a]", '""']),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(" ".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda options: f"({' | '.join(options)})"),
        inner.map(lambda item: f"({item})*"),
        inner.map(lambda item: f"({item}){{1,2}}"),
    ),
    max_leaves=6,
)


def as_python(body: str) -> str:
    """The same as a regular expression of Python's."""
    return re.sub(r'"([^"]*)"| ', lambda found: f"(?:{found[1]})" if found[1] is not None else "", body)


@given(nodes, st.text("abc", max_size=5))
def test_both_ways_of_converting_agree_with_a_regular_expression(body, text):
    expected = re.fullmatch(as_python(body), text) is not None
    assert matches(f"root ::= {body}", text) == expected
    recurring = f'root ::= {body} | "!" root'  # so it is converted to a grammar of single code points
    assert convert_gbnf(recurring).kind == "lark"
    for written in (text, f"!!{text}"):
        assert matches(recurring, written) == (re.fullmatch(f"!*(?:{as_python(body)})", written) is not None)


def test_rules_that_use_rules_do_not_grow_without_bound():
    rules = [f"r{index} ::= r{index + 1} r{index + 1} r{index + 1} r{index + 1}" for index in range(20)]
    converted = convert_gbnf("\n".join(["root ::= r0", *rules, 'r20 ::= "a"']))
    assert converted.kind == "lark"
    assert len(converted.source) < 10_000


@pytest.mark.parametrize("source", ["root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000, "root ::= " + "(" * 60_000])
def test_sixty_thousand_parentheses_never_reach_native_code(source, monkeypatch):
    monkeypatch.setattr("localllm_llama_cpp.grammar_text.LLMatcher", None)
    with pytest.raises(InvalidRequestError, match=r"longer than 65536 bytes|more than 50") as caught:
        GRAMMARS.compile(Constraint("gbnf", source))
    assert caught.value.param == "grammar"


def test_the_first_parenthesis_too_many_ends_the_reading():
    read: list[int] = []

    class Counted(str):
        def count(self, *args: object) -> int:  # type: ignore[override]  # asked for the line of an error
            read.append(int(str(args[2])))
            return 0

    with pytest.raises(ConstraintError, match="more than 50 parentheses are open"):
        parse_gbnf(Counted("root ::= " + "(" * 60_000))
    assert read == [len("root ::= ") + 50]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "no rule 'root'"),
        ('a ::= "x"', "no rule 'root'"),
        ("root ::= a", "uses 'a', which it does not define"),
        ('root ::= "x', "line 1, a literal is not closed"),
        ("root ::= \n[a", "line 2, a character class is not closed"),
        ("root ::= []", "a character class is empty"),
        ("root ::= [z-a]", "the range 'z' to 'a' is empty"),
        ('root ::= ("x"', "a '\\(' of rule 'root' is not closed"),
        ('root ::= "x")', "a '\\)' has no '\\('"),
        ("root ::= *", "nothing to repeat before '\\*'"),
        ('root ::= "x"**', "repeats a repetition"),
        ('root ::= "x"{3,2}', "repetitions have to rise"),
        ('root ::= "x"{1,2001}', "at most 2000"),
        ('root ::= "x"{}', "the character '{' has no meaning here"),
        ('root ::= "\\q"', "the escape '\\\\\\\\q' is unknown"),
        ('root ::= "\\ud800"', "is unknown"),
        ('root ::= "\\U00110000"', "is unknown"),
        ('root ::= <think> "x"', "tokens .* are not supported"),
        ('"x"', "has to begin with 'NAME ::='"),
        ('root ::= "x"\nroot ::= "y"', "'root' is defined a second time"),
        ("\n".join(['root ::= "x"', *(f'r{index} ::= "x"' for index in range(1000))]), "more than 1000 rules"),
    ],
)
def test_what_is_wrong_is_said(source, message):
    with pytest.raises(ConstraintError, match=message):
        parse_gbnf(source)


@given(st.text('ro:=|()*+?{}[]"\\,.^-# \n129ax<', max_size=60).map(lambda rest: "root ::= " + rest))
def test_no_text_breaks_the_reader_or_the_compiler(source):
    try:
        convert_gbnf(source)
    except ConstraintError as error:
        assert str(error).startswith("The grammar")
        return
    assert GRAMMARS.compile(Constraint("gbnf", source)) == ()
