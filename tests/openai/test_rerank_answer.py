"""The rerank answer orders any scores, and states them between 0 and 1 where they are logits."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.openai import Scores, parse_rerank, rerank_pieces
from localllm.openai.rerank_answer import sigmoid


def answer(values: list[float], scale: Any = "logit", **fields: Any) -> Any:
    call = parse_rerank({"query": "q", "documents": [f"d{index}" for index in range(len(values))], **fields})
    return orjson.loads(b"".join(rerank_pieces(call, Scores("m", "classification_head", values, scale))))


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20), st.integers(1, 30)
)
def test_the_best_come_first_and_equal_ones_keep_their_order(values: list[float], top_n: int) -> None:
    body = answer(values, top_n=top_n)
    places = [(-values[result["index"]], result["index"]) for result in body["results"]]
    assert places == sorted((-value, index) for index, value in enumerate(values))[:top_n]
    assert [datum["index"] for datum in body["data"]] == [index for _, index in places]
    assert [result["document"]["text"] for result in body["results"]] == [f"d{index}" for _, index in places]
    scores = [result["relevance_score"] for result in body["results"]]
    assert all(0 <= one <= 1 for one in scores)
    assert scores == sorted(scores, reverse=True)


@given(st.floats(allow_nan=False))
def test_sigmoid_is_symmetric_and_bounded(logit: float) -> None:
    assert 0 <= sigmoid(logit) <= 1
    assert sigmoid(logit) + sigmoid(-logit) == pytest.approx(1)


@pytest.mark.parametrize(
    ("scale", "raw", "expected"),
    [("logit", False, 0.5), ("logit", True, 0.0), ("probability", False, 0.0), ("probability", True, 0.0),
     (None, False, 0.0), (None, True, 0.0)],
)  # fmt: skip
def test_only_logits_are_scaled_and_only_on_demand_not(scale: Any, raw: bool, expected: float) -> None:
    assert answer([0.0], scale, raw_scores=raw)["results"][0]["relevance_score"] == expected


def test_far_scores_that_a_sigmoid_makes_equal_stay_in_order() -> None:
    body = answer([100.0, 900.0, 500.0])
    assert [result["index"] for result in body["results"]] == [1, 2, 0]
    assert {result["relevance_score"] for result in body["results"]} == {1.0}


def test_many_cut_documents_are_named_in_part() -> None:
    call = parse_rerank({"query": "q", "documents": ["d"] * 30})
    scores = Scores("m", "cosine", [0.0] * 30, truncated=tuple(range(30)))
    (warning,) = orjson.loads(b"".join(rerank_pieces(call, scores)))["meta"]["warnings"]
    assert warning.startswith("Documents that were cut to fit: 0, 1, 2")
    assert warning.endswith("19, ….")
