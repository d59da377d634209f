"""The rule of ``text_offset``: a token begins at the character that its first byte is a part of."""

from __future__ import annotations

import os
from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.openai.text_offset import GivenText, TextOfTokens

EXAMPLES = 5000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 300
LIVELY = st.text(st.sampled_from("aé漢😀 \n\u0301\ufffd") | st.characters(exclude_categories=["Cs"]), max_size=12)
HOSTILE = st.lists(
    st.sampled_from([b"a", b"\xc3", b"\xa9", b"\xe2", b"\x82", b"\xf0", b"\x9f", b"\xff", b"\xed", b"\xa0"])
)
CUTS = st.lists(st.integers(0, 40), max_size=8)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut anywhere, between the bytes of a code point too; some pieces are empty."""
    borders = sorted([0, *(min(at, len(data)) for at in cuts), len(data)])
    return [data[start:end] for start, end in pairwise(borders)]


def character_at(data: bytes, at: int) -> int:
    """Return the index of the character that byte ``at`` is a part of, by decoding all that leads up to it."""
    return len(data[: at + 1].decode("utf-8", "replace")) - 1


@pytest.mark.parametrize(
    ("tokens", "offsets"),
    [
        ([b"Hello", b" ", b"you"], [0, 5, 6]),
        (["é".encode(), b"a"], [0, 1]),
        ([b"\xc3", b"\xa9", b"a"], [0, 0, 1]),  # two halves of one character
        ([b"x", b"\xf0\x9f", b"\x98\x80y", b"z"], [0, 1, 1, 3]),
        ([b"\xc3", b"a"], [0, 1]),  # a half that stays one is U+FFFD
        ([b"\xc3", b"\xe2", b"\x82", b"\xac"], [0, 1, 1, 1]),
        ([b"\xed", b"\xa0", b"", b"a", b"b"], [0, 1, 1, 2, 3]),  # never a code point, though it begins like one
        ([b"a", b"", b"b", b""], [0, 1, 1, 2]),
        ([b"\xc3", b"", b"\xa9", b""], [0, 0, 0, 1]),
    ],
)
def test_offsets_of_tokens(tokens: list[bytes], offsets: list[int]) -> None:
    text = TextOfTokens()
    assert [text.feed(token)[0] for token in tokens] == offsets
    moved = TextOfTokens(start=7)
    assert [moved.feed(token)[0] for token in tokens] == [7 + offset for offset in offsets]


@settings(max_examples=EXAMPLES, deadline=None)
@given(LIVELY.map(str.encode) | HOSTILE.map(b"".join) | st.binary(max_size=12), CUTS)
def test_offset_is_that_of_the_first_bytes_character(data: bytes, cuts: list[int]) -> None:
    tokens = cut(data, cuts)
    text = TextOfTokens()
    fed = [text.feed(token) for token in tokens]
    starts = [0, *accumulate(len(token) for token in tokens)]
    for token, start, (offset, _) in zip(tokens, starts, fed, strict=False):
        if token:
            assert offset == character_at(data, start)
    assert "".join(piece for _, piece in fed) + text.finish() == data.decode("utf-8", "replace")


@settings(max_examples=EXAMPLES, deadline=None)
@given(LIVELY, CUTS)
def test_given_text_that_is_its_tokens_has_their_offsets(text: str, cuts: list[int]) -> None:
    tokens = cut(text.encode(), cuts)
    given_text, of_tokens = GivenText(text), TextOfTokens()
    assert [given_text.feed(token) for token in tokens] == [of_tokens.feed(token) for token in tokens]
    assert given_text.finish() == ""


@settings(max_examples=EXAMPLES, deadline=None)
@given(LIVELY, st.lists(LIVELY.map(str.encode) | st.binary(max_size=4)))
def test_given_text_comes_back_whatever_the_tokens_are(text: str, tokens: list[bytes]) -> None:
    given_text = GivenText(text)
    fed = [given_text.feed(token) for token in tokens]
    assert "".join(piece for _, piece in fed) + given_text.finish() == text
    offsets = [offset for offset, _ in fed]
    assert offsets == sorted(offsets)
    assert all(0 <= offset <= len(text) for offset in offsets)


@pytest.mark.parametrize(
    ("text", "tokens", "offsets"),
    [
        ("Hello you", [b"<s>", b"Hello", b" you"], [0, 0, 5]),  # a token that the text doesn't have
        ("Hello you", [b"", b"Hello", b" you"], [0, 0, 5]),
        ("Hello Hello", [b" Hello", b" Hello"], [0, 5]),  # a space in front that the tokenizer put there
        ("<|user|>Hi<|end|>", [b"", b"Hi", b""], [0, 8, 10]),  # control tokens without bytes
        ("é<|x|>é", [b"\xc3", b"\xa9", b"", b"\xc3", b"\xa9"], [0, 0, 1, 6, 6]),
        ("Hello" + "." * 300 + "you", [b"Hello", b"you"], [0, 5]),  # too far ahead to be looked for
    ],
)
def test_tokens_that_are_not_the_text(text: str, tokens: list[bytes], offsets: list[int]) -> None:
    given_text = GivenText(text)
    assert [given_text.feed(token)[0] for token in tokens] == offsets
