"""Sampling fields: names, ranges and meaning, the same for both endpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from localllm.contract.errors import InvalidRequestError
from localllm.contract.generation import SamplingParams
from localllm.openai import parse_chat, parse_completion

Sampler = Callable[..., SamplingParams]


def chat_sampling(**fields: Any) -> SamplingParams:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    return parse_chat(body).generate_request().sampling


def completion_sampling(**fields: Any) -> SamplingParams:
    return parse_completion({"prompt": "Once", **fields}).generate_requests()[0].sampling


BOTH = pytest.mark.parametrize("sampling", [chat_sampling, completion_sampling])


@BOTH
@pytest.mark.parametrize(
    ("field", "value", "attribute", "expected"),
    [
        ("temperature", 0, "temperature", 0.0),
        ("temperature", 2, "temperature", 2.0),
        ("top_k", -1, "top_k", -1),
        ("top_k", 7, "top_k", 7),
        ("top_p", 0.5, "top_p", 0.5),
        ("min_p", 0.05, "min_p", 0.05),
        ("presence_penalty", -2, "presence_penalty", -2.0),
        ("frequency_penalty", 2, "frequency_penalty", 2.0),
        ("repeat_penalty", 1.1, "repeat_penalty", 1.1),
        ("repetition_penalty", 1.2, "repeat_penalty", 1.2),
        ("repeat_last_n", 32, "repeat_last_n", 32),
        ("repeat_penalty_num", -1, "repeat_last_n", -1),
        ("seed", 7, "seed", 7),
        ("seed", 2**32 + 5, "seed", 5),
        ("seed", -(2**63), "seed", 0),
        ("seed", -2, "seed", 2**32 - 2),
        ("seed", -1, "seed", None),
        ("n", 3, "n", 3),
        ("max_tokens", 9, "max_tokens", 9),
        ("max_tokens", -1, "max_tokens", None),
        ("n_predict", 9, "max_tokens", 9),
        ("min_tokens", 4, "min_tokens", 4),
        ("ignore_eos", True, "ignore_eos", True),
        ("include_stop_str_in_output", True, "include_stop", True),
        ("stop", "\n", "stop", ("\n",)),
        ("stop", ["a", "b"], "stop", ("a", "b")),
        ("stop", [], "stop", ()),
        ("logit_bias", {"5": 1, "6": -100}, "logit_bias", ((5, 1.0), (6, -100.0))),
        ("logit_bias", [[5, 0.5], [6, False]], "logit_bias", ((5, 0.5), (6, -100.0))),
        ("logit_bias", {}, "logit_bias", ()),
        ("logit_bias", {"5": 1, " yes": 2}, "text_bias", ((" yes", 2.0),)),
        ("typical_p", 0.5, "typical_p", 0.5),
        ("typical", 1, "typical_p", 1.0),
        ("top_n_sigma", -1, "top_n_sigma", -1.0),
        ("top_n_sigma", 1.5, "top_n_sigma", 1.5),
        ("xtc_probability", 0.5, "xtc_probability", 0.5),
        ("xtc_threshold", 0.2, "xtc_threshold", 0.2),
        ("dry_multiplier", 0.8, "dry_multiplier", 0.8),
        ("dry_base", 2, "dry_base", 2.0),
        ("dry_allowed_length", 0, "dry_allowed_length", 0),
        ("dry_penalty_last_n", -1, "dry_penalty_last_n", -1),
        ("dry_sequence_breakers", ["\n", "ä"], "dry_sequence_breakers", ("\n", "ä")),
        ("dry_sequence_breakers", [], "dry_sequence_breakers", ()),
        ("mirostat", 2, "mirostat", 2),
        ("mirostat_mode", 1, "mirostat", 1),
        ("mirostat_tau", 3, "mirostat_tau", 3.0),
        ("mirostat_eta", 0.2, "mirostat_eta", 0.2),
        ("stop_token_ids", [5, 0], "stop_tokens", (5, 0)),
        ("stop_token_ids", [], "stop_tokens", ()),
        ("allowed_token_ids", [7, 5], "allowed_tokens", (7, 5)),
        ("bad_words", ["no", " never"], "bad_words", ("no", " never")),
        ("bad_words", [], "bad_words", ()),
    ],
)
def test_field_reaches_the_engine(sampling: Sampler, field: str, value: Any, attribute: str, expected: Any) -> None:
    assert getattr(sampling(**{field: value}), attribute) == expected


@BOTH
def test_silent_request_leaves_the_choice_to_the_model(sampling: Sampler) -> None:
    params = sampling()
    assert (params.temperature, params.top_k, params.top_p, params.min_p, params.seed) == (None,) * 5
    assert params.repeat_penalty == 1.0
    assert params.logprobs is None
    neutral = SamplingParams(max_tokens=params.max_tokens)
    assert params == neutral


WRONG_TYPES: tuple[Any, ...] = ("hot", "1", True, [], {}, [1])
BASIC_NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty")
SAMPLER_NUMBERS = (
    *("typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base"),
    *("mirostat_tau", "mirostat_eta"),
)
NUMBERS = (*BASIC_NUMBERS, *SAMPLER_NUMBERS)
BASIC_INTEGERS = ("top_k", "repeat_last_n", "seed", "n", "max_tokens", "min_tokens")
INTEGERS = (*BASIC_INTEGERS, "dry_allowed_length", "dry_penalty_last_n", "mirostat", "prompt_logprobs")
FLAGS = ("stream", "ignore_eos", "include_stop_str_in_output", "cache_prompt", "timings_per_token")

BAD: list[tuple[str, Any]] = [
    *((field, value) for field in (*NUMBERS, *INTEGERS) for value in WRONG_TYPES),
    *((field, value) for field in NUMBERS for value in (float("nan"), float("inf"), 1e308, -1e308, 10**400)),
    *((field, value) for field in INTEGERS for value in (1.0, 1.5, 10**19, -(10**19), float("nan"))),
    *((field, value) for field in FLAGS for value in (0, 1, "true", [], {})),
    *(("temperature", value) for value in (-0.01, 2.01)),
    *(("top_p", value) for value in (-0.1, 1.1)),
    *(("min_p", value) for value in (-0.1, 1.1)),
    *(("presence_penalty", value) for value in (-2.1, 2.1)),
    *(("frequency_penalty", value) for value in (-2.1, 2.1)),
    *(("repeat_penalty", value) for value in (0, -1, 10.1)),
    *(("repetition_penalty", value) for value in (0, "x")),
    *(("repeat_penalty_num", value) for value in (-2, "x")),
    ("top_k", -2),
    ("repeat_last_n", -2),
    *(("n", value) for value in (0, -1, 33, 10**9)),
    *(("max_tokens", value) for value in (0, -2, 2**31)),
    ("min_tokens", -1),
    *(("stop", value) for value in (5, True, {}, "", "x" * 1025, [""], [5], [None], ["x"] * 17, ["x" * 1025])),
    *(("logit_bias", value) for value in ("x", 5, True, [5], {"-1": 1}, {"5": "1"}, {"": 1}, {"x": 101})),
    *(("typical_p", value) for value in (-0.1, 1.1)),
    *(("top_n_sigma", value) for value in (-1.1, 1001)),
    *(("xtc_probability", value) for value in (-0.1, 1.1)),
    *(("xtc_threshold", value) for value in (-0.1, 1.1)),
    *(("dry_multiplier", value) for value in (-0.1, 101)),
    *(("dry_base", value) for value in (0.9, 101)),
    *(("dry_allowed_length", value) for value in (-1, 2**31)),
    *(("dry_penalty_last_n", value) for value in (-2, 2**31)),
    *(("mirostat", value) for value in (-1, 3)),
    ("mirostat_mode", 3),
    ("typical", 2),
    *(("mirostat_tau", value) for value in (-0.1, 101)),
    *(("mirostat_eta", value) for value in (-0.1, 1.1)),
    *(("prompt_logprobs", value) for value in (-1, 21)),
    *(("dry_sequence_breakers", value) for value in (5, "x", {}, [5], [""], ["x" * 65], ["x"] * 65)),
    *(("stop_token_ids", value) for value in (5, "x", {}, ["5"], [-1], [True], [1.0], [2**31], [1] * 129)),
    *(("allowed_token_ids", value) for value in (5, "x", {}, [], ["5"], [-1], [True], [2**31], [1] * 32_769)),
    *(("bad_words", value) for value in (5, "x", {}, [5], [""], ["x" * 257], ["x"] * 257)),
    *(("model", value) for value in (5, True, [], {}, "x" * 513)),
    *(("stream_options", value) for value in (5, "x", [], True)),
]


@BOTH
@pytest.mark.parametrize(("field", "value"), BAD)
def test_bad_value_is_refused_by_name(sampling: Sampler, field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sampling(**{field: value})
    assert caught.value.param is not None
    assert caught.value.param.split("[")[0] == field
    assert caught.value.param in caught.value.message
    assert len(caught.value.message) < 300


@BOTH
@pytest.mark.parametrize("field", sorted({field for field, _ in BAD}))
def test_null_is_absent(sampling: Sampler, field: str) -> None:
    assert sampling(**{field: None}) == sampling()


@BOTH
def test_several_faults_are_all_listed(sampling: Sampler) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sampling(temperature="hot", top_p=2)
    assert caught.value.param == "temperature"
    assert caught.value.message == (
        'temperature must be a number, but it is "hot". top_p must be at most 1, but it is 2.'
    )
    assert [fault["param"] for fault in caught.value.detail["errors"]] == ["temperature", "top_p"]


@BOTH
def test_long_list_of_faults_is_cut(sampling: Sampler) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sampling(**dict.fromkeys((*BASIC_NUMBERS, *BASIC_INTEGERS), "x"))
    assert len(caught.value.detail["errors"]) == 8
    assert "4 more faults are not listed" in caught.value.message


@BOTH
def test_min_tokens_beyond_max_tokens_is_refused(sampling: Sampler) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sampling(min_tokens=11, max_tokens=10)
    assert caught.value.param == "min_tokens"


@BOTH
def test_include_usage_needs_a_stream(sampling: Sampler) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sampling(stream_options={"include_usage": True})
    assert caught.value.param == "stream_options"
    sampling(stream_options={"include_usage": False})
    sampling(stream_options={"include_usage": None})
    sampling(stream_options={"include_usage": True}, stream=True)


def test_prompt_logprobs_reach_the_engine_and_are_not_for_streams() -> None:
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    assert parse_chat(chat).generate_request().prompt_logprobs is None
    assert parse_chat({**chat, "prompt_logprobs": 0}).generate_request().prompt_logprobs == 0
    assert parse_completion({"prompt": "Hi", "prompt_logprobs": 20}).generate_requests()[0].prompt_logprobs == 20
    for sampling in (chat_sampling, completion_sampling):
        with pytest.raises(InvalidRequestError) as caught:
            sampling(prompt_logprobs=0, stream=True)
        assert caught.value.param == "prompt_logprobs"


def test_newer_limit_wins_over_the_deprecated_one() -> None:
    assert chat_sampling(max_tokens=5, max_completion_tokens=7).max_tokens == 7
    assert chat_sampling(max_tokens=5, max_completion_tokens=None).max_tokens == 5
    assert chat_sampling(max_tokens=5, max_completion_tokens=-1).max_tokens is None
    with pytest.raises(InvalidRequestError) as caught:
        chat_sampling(max_completion_tokens=0)
    assert caught.value.param == "max_completion_tokens"


def test_default_limits() -> None:
    assert chat_sampling().max_tokens is None
    assert completion_sampling().max_tokens == 16
    assert completion_sampling(max_tokens=None).max_tokens == 16
