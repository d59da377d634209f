from __future__ import annotations

import pytest

from localllm_llama_cpp.pooling_rules import FileFacts, ScoreRule, choose_kind, choose_score, why_not


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        pytest.param(FileFacts("bert", 1, False), "mean", id="the-file-says-mean"),
        pytest.param(FileFacts("bert", 2, False), "cls", id="the-file-says-cls"),
        pytest.param(FileFacts("qwen3", 3, False), "last", id="the-file-says-last"),
        pytest.param(FileFacts("qwen3", 4, True), "rank", id="the-file-says-rank"),
        pytest.param(FileFacts("bert", None, False), "mean", id="an-encoder-that-says-nothing"),
        pytest.param(FileFacts("bert", 0, False), "mean", id="an-encoder-that-says-none"),
        pytest.param(FileFacts("bert", None, False, ("some embed",)), "mean", id="an-encoder-named-so"),
        pytest.param(FileFacts("bert", None, True), "rank", id="a-head-that-nobody-mentions"),
        pytest.param(FileFacts("modern-bert", 1, True), "rank", id="a-head-counts-more"),
        pytest.param(FileFacts("llama", None, False, ("Some-Embedding-8B",)), "last", id="a-decoder-named-so"),
        pytest.param(FileFacts("llama", 0, False, ("Some-Chat-8B",)), "mean", id="a-chat-model"),
        pytest.param(FileFacts("mamba", None, False), "mean", id="a-recurrent-model"),
    ],
)
def test_the_kind_follows_from_the_file(facts: FileFacts, kind: str) -> None:
    assert choose_kind("auto", facts) == kind


@pytest.mark.parametrize("wanted", ["mean", "cls", "last"])
def test_a_setting_counts_more_than_the_file(wanted) -> None:
    assert choose_kind(wanted, FileFacts("bert", 2, True)) == wanted


@pytest.mark.parametrize(("wanted", "pooling_type"), [("rank", None), ("auto", 4)])
def test_scores_need_a_head(wanted, pooling_type) -> None:
    with pytest.raises(ValueError, match="no classification head"):
        choose_kind(wanted, FileFacts("bert", pooling_type, False))


@pytest.mark.parametrize(
    ("architecture", "labels", "rule"),
    [
        pytest.param("bert", [""], ScoreRule(0, "logit"), id="one-output"),
        pytest.param("bert", ["LABEL_0"], ScoreRule(0, "logit"), id="one-label"),
        pytest.param("qwen3", ["yes", "no"], ScoreRule(0, "probability"), id="qwen3"),
        pytest.param("qwen3", ["no", "Yes"], ScoreRule(1, "probability"), id="qwen3-the-other-way-round"),
        pytest.param("bert", ["irrelevant", "relevant"], ScoreRule(1, "probability", True), id="two-labels"),
        pytest.param("bert", ["a", "b", "c"], ScoreRule(0, "probability", True), id="unknown-labels"),
    ],
)
def test_the_score_is_what_says_relevant(architecture, labels, rule) -> None:
    assert choose_score(architecture, labels) == rule


def test_a_softmax_over_one_output_is_no_score() -> None:
    with pytest.raises(ValueError, match="every score would be 1"):
        choose_score("qwen3", [""])


def test_what_has_no_vector_says_why() -> None:
    assert "decoder" in (why_not("t5") or "")
    assert why_not("bert") is None
    assert why_not("qwen3") is None
