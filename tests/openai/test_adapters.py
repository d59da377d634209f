"""The field ``lora`` names adapters by their place or their name; anything else is told by its path."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.adapters import AdapterScale
from localllm.contract.errors import InvalidRequestError
from localllm.contract.model import RequestRules
from localllm.openai.chat import parse_chat
from localllm.openai.completions import parse_completion
from localllm.openai.rule_checks import rule_faults


def adapters(lora: Any) -> tuple[AdapterScale, ...] | None:
    chat = parse_chat({"messages": [{"role": "user", "content": "Hi"}], "lora": lora}).generate_request()
    [completion] = parse_completion({"prompt": "Hi", "lora": lora}).generate_requests()
    assert chat.adapters == completion.adapters
    return chat.adapters


def test_adapters_are_named_as_llama_server_has_it_or_by_name() -> None:
    lora = [{"id": 1, "scale": 0.5}, {"name": "formal"}, {"name": "rude", "scale": -2}]
    assert adapters(lora) == (
        AdapterScale(0.5, index=1),
        AdapterScale(1.0, name="formal"),
        AdapterScale(-2.0, name="rude"),
    )


@pytest.mark.parametrize("lora", [None, []])
def test_nothing_said_leaves_it_to_the_configuration(lora: Any) -> None:
    assert adapters(lora) is None


@pytest.mark.parametrize(
    ("lora", "param", "message"),
    [
        ("formal", "lora", "must be a list of objects with id or name, and scale, not"),
        ([{}] * 33, "lora", "must have at most 32 entries, not 33"),
        (["formal"], "lora[0]", "must be an object with id or name, and scale"),
        ([{"scale": 1}], "lora[0]", "must have either id or name"),
        ([{"id": 0, "name": "x"}], "lora[0]", "must have either id or name"),
        ([{"id": -1}], "lora[0].id", "must be a number from 0 to 31, not -1"),
        ([{"id": True}], "lora[0].id", "must be a number from 0 to 31, not true"),
        ([{"name": ""}], "lora[0].name", "must be a name of at most 256 characters"),
        ([{"id": 0}, {"id": 1, "scale": "1"}], "lora[1].scale", 'must be a number of at most 1000, not "1"'),
        ([{"id": 0, "scale": 1e9}], "lora[0].scale", "must be a number of at most 1000"),
        ([{"id": 0, "scale": float("nan")}], "lora[0].scale", "must be a number of at most 1000, not NaN"),
        ([{"id": 0}, {"id": 0, "scale": 0}], "lora[1]", "must not name an adapter that another entry names"),
    ],
)
def test_each_fault_has_its_path(lora: Any, param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        adapters(lora)
    assert caught.value.param == param
    assert f"{param} {message}" in caught.value.message


def test_a_models_defaults_may_choose_them() -> None:
    assert rule_faults(RequestRules(defaults={"lora": [{"name": "formal"}]})) == []
    [fault] = rule_faults(RequestRules(force={"lora": [{"scale": 1}]}))
    assert (fault.key, fault.sentence) == ("force.lora", "lora[0] must have either id or name")
