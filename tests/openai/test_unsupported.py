"""Fields of features that are not there: neutral values pass, others are an error that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.errors import UnsupportedFeatureError
from localllm.openai import parse_chat, parse_completion
from localllm.openai.unsupported import CHAT_REFUSALS, COMPLETION_REFUSALS

HELLO = [{"role": "user", "content": "Hello"}]

ASKING: dict[str, list[Any]] = {
    "skip_special_tokens": [False],
    "tfs_z": [0.5],
    "tfs": [0.5],
    "adaptive_target": [0, 0.5],
    "t_max_predict_ms": [100],
    "n_probs": [5],
    "reasoning_format": ["none", "deepseek-legacy"],
    "modalities": [["audio"], ["text", "audio"]],
    "web_search_options": [{}],
}
NEUTRAL: dict[str, list[Any]] = {
    "skip_special_tokens": [True],
    "tfs_z": [1],
    "tfs": [1],
    "adaptive_target": [-1.0],
    "t_max_predict_ms": [0, -1],
    "n_probs": [0],
    "reasoning_format": ["auto", "deepseek"],
    "modalities": [["text"], []],
    "web_search_options": [False],
}


def chat(**fields: Any) -> object:
    return parse_chat({"messages": HELLO, **fields}).generate_request()


def completion(**fields: Any) -> object:
    return parse_completion({"prompt": "a", **fields}).generate_requests()


CASES = [(chat, field) for field in CHAT_REFUSALS] + [(completion, field) for field in COMPLETION_REFUSALS]


@pytest.mark.parametrize(("parse", "field"), CASES)
def test_asking_value_is_refused_with_a_reason(parse: Any, field: str) -> None:
    for value in ASKING.get(field, [["x"], "x", {"x": 1}]):
        with pytest.raises(UnsupportedFeatureError) as caught:
            parse(**{field: value})
        assert caught.value.param == field
        assert caught.value.message.startswith(f"{field} is not supported here: ")


@pytest.mark.parametrize(("parse", "field"), CASES)
def test_neutral_value_changes_nothing(parse: Any, field: str) -> None:
    for value in [None, *NEUTRAL.get(field, [[], {}, "", False])]:
        assert parse(**{field: value}) == parse()


@pytest.mark.parametrize("name", ["dynatemp_exponent", "adaptive_decay", "id_slot", "keep_alive"])
def test_parameters_of_what_is_off_are_ignored(name: str) -> None:
    assert chat(**{name: 3}) == chat()
