"""``logit_bias`` by id and by text: which is which, and that no bias gets through that a logit can't bear."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.openai.biases import BAN, MAX_BIASES, MAX_TOKEN_ID, Biases, parse_logit_bias
from localllm.openai.wire_model import FieldError

EXAMPLES = 2000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 150
IDS = st.integers(0, MAX_TOKEN_ID)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NAMES = TEXTS.filter(lambda text: not text.lstrip("-").isascii() or not text.lstrip("-").isdecimal())
BIAS = st.floats(-100, 100) | st.integers(-100, 100) | st.just(False)


def number(bias: float) -> float:
    return BAN if bias is False else float(bias)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, Biases()),
        ([], Biases()),
        ({"5": 1, "6": False}, Biases(by_id=((5, 1.0), (6, -100.0)))),
        ({" world": 2, "7": -1}, Biases(((7, -1.0),), ((" world", 2.0),))),
        ([["Hello", -0.5], [5, 3]], Biases(((5, 3.0),), (("Hello", -0.5),))),
        ([["5", 1]], Biases(by_text=(("5", 1.0),))),  # a pair can tell the digit from the id
        ([[5, 1], [5, 2], ["a", 1], ["a", 2]], Biases(((5, 2.0),), (("a", 2.0),))),
        ({"²": 1, "5.0": 1, "1e3": 1, "- 5": 1}, Biases((), (("²", 1.0), ("5.0", 1.0), ("1e3", 1.0), ("- 5", 1.0)))),
    ],
)
def test_ids_and_texts_are_told_apart(value: Any, expected: Biases) -> None:
    assert parse_logit_bias(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(
            "x",
            5,
            True,
            [5],
            [[5]],
            [[5, 1, 1]],
            [None],
            [{}],
            [["a"]],
            [[[], 1]],
            [[None, 1]],
            [[1.0, 1]],
            [[True, 1]],
        ),
        *({"-1": 1}, {str(2**31): 1}, {"9" * 5000: 1}, {"9" * 20: 1}, {"": 1}, {"x" * 257: 1}, {"\ud800": 1}),
        *([[-1, 1]], [[2**31, 1]], [["", 1]]),
        *({"a": True}, {"a": None}, {"a": "1"}, {"a": math.nan}, {"a": math.inf}, {"a": 100.5}, {"a": -101}, {"a": []}),
        {f"t{n}": 1 for n in range(MAX_BIASES + 1)},
    ],
)
def test_bad_bias_is_refused(value: Any) -> None:
    with pytest.raises(FieldError) as caught:
        parse_logit_bias(value)
    assert len(str(caught.value)) < 200


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dictionaries(IDS, BIAS, max_size=8), st.dictionaries(NAMES, BIAS, max_size=8))
def test_object_and_pairs_mean_the_same(ids: dict[int, float], texts: dict[str, float]) -> None:
    expected = Biases(
        tuple((token, number(bias)) for token, bias in ids.items()),
        tuple((text, number(bias)) for text, bias in texts.items()),
    )
    assert parse_logit_bias({**{str(token): bias for token, bias in ids.items()}, **texts}) == expected
    assert parse_logit_bias([*map(list, ids.items()), *map(list, texts.items())]) == expected


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.dictionaries(TEXTS | st.integers().map(str), st.floats() | st.integers() | st.booleans() | st.none())
    | st.lists(st.lists(IDS | st.integers() | TEXTS | st.floats(), max_size=3))
)
def test_what_gets_through_is_in_range(value: Any) -> None:
    try:
        biases = parse_logit_bias(value)
    except FieldError:
        return
    assert all(0 <= token <= MAX_TOKEN_ID for token, _ in biases.by_id)
    assert all(text for text, _ in biases.by_text)
    assert all(-100 <= bias <= 100 for _, bias in (*biases.by_id, *biases.by_text))
    assert len(dict(biases.by_id)) == len(biases.by_id)
    assert len(dict(biases.by_text)) == len(biases.by_text)
