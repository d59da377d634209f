"""What a model's configuration makes of bodies: what is dropped, filled in and forced, and what is refused at start."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.generation import ChatPrompt
from localllm.contract.model import ModelDefinition, RequestRules
from localllm.openai.chat import parse_chat
from localllm.openai.completions import parse_completion
from localllm.openai.model_rules import apply_rules, same_wish
from localllm.openai.responses import parse_response
from localllm.openai.rule_checks import SETTABLE, STRIPPABLE, preload_prompts, rule_faults

USER = {"role": "user", "content": "Hello"}


def ruled(body: dict[str, Any], **rules: Any) -> dict[str, Any]:
    return apply_rules(body, RequestRules(**rules)).fields


def brought(body: dict[str, Any], **rules: Any) -> set[str]:
    return set(apply_rules(body, RequestRules(**rules)).brought)


JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=3)


@given(st.dictionaries(st.text(max_size=5), JSON))
def test_without_rules_a_body_stays_as_it_is(body: dict[str, Any]) -> None:
    assert apply_rules(body, RequestRules()) == (body, frozenset())


def test_strip_comes_before_defaults_and_force_after_the_request() -> None:
    rules: dict[str, Any] = {
        "strip": ("temperature",),
        "defaults": {"temperature": 0.5, "top_p": 0.9, "min_p": 0.1},
        "force": {"top_k": 5, "min_p": 0.2},
    }
    body = {"temperature": 1, "top_p": 0.3, "top_k": 9, "seed": 1}
    assert ruled(body, **rules) == {"temperature": 0.5, "top_p": 0.3, "top_k": 5, "min_p": 0.2, "seed": 1}
    assert brought(body, **rules) == {"temperature", "top_k", "min_p"}
    assert body == {"temperature": 1, "top_p": 0.3, "top_k": 9, "seed": 1}


def test_null_leaves_a_field_out() -> None:
    assert ruled({"temperature": None}, defaults={"temperature": 0.5}) == {"temperature": 0.5}


NAMES = ("max_tokens", "max_completion_tokens", "n_predict")


@pytest.mark.parametrize("said", NAMES)
@pytest.mark.parametrize("set_", NAMES)
def test_names_of_one_wish_are_one_field(said: str, set_: str) -> None:
    body = {"messages": [USER], said: 7}
    default = parse_chat(ruled(body, defaults={set_: 9})).generate_request()
    forced = parse_chat(ruled(body, force={set_: 9})).generate_request()
    assert default.sampling.max_tokens == 7
    assert forced.sampling.max_tokens == 9
    prompts = {"prompt": "x", "max_tokens": 7}
    assert parse_completion(ruled(prompts, force={set_: 9})).generate_requests()[0].sampling.max_tokens == 9
    assert parse_completion(ruled({"prompt": "x"}, defaults={set_: 9})).generate_requests()[0].sampling.max_tokens == 9


@pytest.mark.parametrize("set_", [*NAMES, "max_output_tokens"])
def test_responses_have_a_name_of_their_own_for_it(set_: str) -> None:
    said = {"input": "x", "max_output_tokens": 7}
    assert parse_response(ruled(said, defaults={set_: 9})).max_output_tokens == 7
    assert parse_response(ruled(said, force={set_: 9})).max_output_tokens == 9
    assert parse_response(ruled({"input": "x"}, defaults={set_: 9})).max_output_tokens == 9
    assert parse_chat(ruled({"messages": [USER]}, defaults={set_: 9})).generate_request().sampling.max_tokens == 9


def test_what_an_answer_must_match_is_said_in_one_way() -> None:
    theirs, ours = {"guided_choice": ["a", "b"]}, {"response_format": {"type": "json_object"}}
    assert ruled(theirs, defaults=ours) == theirs
    assert ruled(theirs, force=ours) == ours
    text = {"input": "x", "text": {"format": {"type": "json_object"}}}
    assert ruled(text, defaults=theirs) == text
    assert ruled(text, force=theirs) == {"input": "x", **theirs}
    assert same_wish("tools") == {"tools", "functions"}
    assert same_wish("seed") == {"seed"}


@pytest.mark.parametrize(
    "theirs",
    [
        {"reasoning_effort": "high"},
        {"thinking": {"type": "enabled"}},
        {"enable_thinking": True},
        {"thinking_budget": 9},
    ],
)
@pytest.mark.parametrize(
    "ours",
    [{"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}],
)
def test_thinking_is_one_wish_however_it_is_said(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    def thinks(body: dict[str, Any]) -> Any:
        return parse_chat({"messages": [USER], **body}).template_kwargs().get("enable_thinking")

    assert thinks(ruled({}, defaults=ours)) is False
    assert thinks(ruled(theirs, defaults=ours)) is not False
    assert thinks(ruled(theirs, force=ours)) is False
    assert thinks(ruled({"chat_template_kwargs": {"enable_thinking": True}}, force=ours)) is False


def test_template_kwargs_are_laid_over_each_other_key_by_key() -> None:
    rules = {"chat_template_kwargs": {"a": 1, "b": 1}}
    body = {"chat_template_kwargs": {"b": 2, "c": 2}}
    assert ruled(body, defaults=rules) == {"chat_template_kwargs": {"a": 1, "b": 2, "c": 2}}
    assert ruled(body, force=rules) == {"chat_template_kwargs": {"a": 1, "b": 1, "c": 2}}
    assert brought(body, defaults=rules) == set()
    assert brought({}, defaults=rules) == {"chat_template_kwargs"}
    assert ruled({"chat_template_kwargs": 3}, defaults=rules) == {"chat_template_kwargs": 3}  # refused later


SETS = st.dictionaries(st.sampled_from(sorted(SETTABLE - {"chat_template_kwargs"})), st.integers(0, 9), max_size=4)


@given(SETS, SETS, SETS)
def test_forced_fields_always_win_and_defaults_never_do(
    body: dict[str, Any], defaults: dict[str, Any], force: dict[str, Any]
) -> None:
    fields, from_config = apply_rules(body, RequestRules(defaults=defaults, force=force))
    for name, value in force.items():
        if name not in ("max_completion_tokens", "max_output_tokens"):
            assert fields[name] == value or same_wish(name) & (force.keys() - {name})
    untouched = {name for name in body if not any(same_wish(name) & same_wish(other) for other in force)}
    for name in untouched:
        assert fields[name] == body[name]
        assert name not in from_config
    assert fields.keys() <= body.keys() | defaults.keys() | force.keys() | {"max_tokens"}


def faults(**rules: Any) -> list[tuple[str, str]]:
    return [(fault.key, fault.sentence) for fault in rule_faults(RequestRules(**rules))]


def test_sound_rules_have_no_faults() -> None:
    defaults = {
        "temperature": 0.2,
        "max_tokens": 100,
        "stop": ["a"],
        "reasoning_effort": "low",
        "chat_template_kwargs": {"x": 1},
        "dimensions": 64,
        "truncate": True,
        "response_format": {"type": "json_object"},
    }
    assert faults(defaults=defaults, strip=("seed", "cache_salt", "keep_alive"), force={"seed": 3, "n": 1}) == []


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"defaults": {"temprature": 1}}, [("defaults.temprature", "no request has this field")]),
        ({"force": {"max_token": 1}}, [("force.max_token", "no request has this field")]),
        (
            {"defaults": {"temperature": 3, "top_p": "x"}},
            [
                ("defaults.temperature", "temperature must be at most 2, but it is 3"),
                ("defaults.top_p", 'top_p must be a number, but it is "x"'),
            ],
        ),
        ({"force": {"dimensions": 0}}, [("force.dimensions", "dimensions must be at least 1, but it is 0")]),
        ({"defaults": {"top_n": True}}, [("defaults.top_n", "top_n must be an integer, but it is true")]),
        ({"force": {"model": "x"}}, [("force.model", "this field can't be set here: it is what a request is about")]),
        (
            {"defaults": {"stream": True}},
            [("defaults.stream", "this field can't be set here: how an answer is sent is the client's to say")],
        ),
        (
            {"defaults": {"max_tokens": 4, "n_predict": 5}},
            [("defaults.n_predict", "max_tokens says the same; leave one of them out")],
        ),
        (
            {"defaults": {"response_format": {"type": "yaml"}}},
            [
                (
                    "defaults.response_format",
                    'response_format.type must be "text", "json_object", "json_schema" or "structural_tag", not "yaml"',
                )
            ],
        ),
        (
            {"force": {"tool_choice": "required"}},
            [("force.tool_choice", "tool_choice needs tools to choose from: send tools too")],
        ),
        (
            {"defaults": {"min_tokens": 9}, "force": {"max_tokens": 4}},
            [("force.min_tokens", "min_tokens must be at most max_tokens (4), but it is 9")],
        ),
        ({"strip": ("messages",)}, [("strip", '"messages" can\'t be dropped: it is what a request is about')]),
        ({"strip": ("foo",)}, [("strip", '"foo": no request has this field')]),
    ],
)
def test_each_fault_is_told_at_start(rules: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert faults(**rules) == expected


def test_an_unknown_name_comes_with_those_that_are_known() -> None:
    [fault] = rule_faults(RequestRules(defaults={"temprature": 1}))
    assert (fault.name, fault.known) == ("temprature", SETTABLE)
    assert {"temperature", "n_predict", "dimensions", "top_n"} <= SETTABLE
    assert {"temperature", "top_a", "ttl", "truncation_direction"} <= STRIPPABLE
    assert not {"model", "messages", "input", "query"} & (SETTABLE | STRIPPABLE)


def preloaded(*beginnings: tuple[dict[str, Any], ...], **rules: Any) -> tuple[list[ChatPrompt], list[tuple[str, str]]]:
    written = tuple(map(ChatPrompt, beginnings))
    prompts, found = preload_prompts(ModelDefinition("m", "x", rules=RequestRules(**rules), preload=written))
    return list(prompts), [(fault.key, fault.sentence) for fault in found]


def test_what_is_preloaded_is_what_a_request_with_these_messages_asks() -> None:
    rules: dict[str, Any] = {"system_prompt": "S", "defaults": {"chat_template_kwargs": {"x": 1}}}
    own, shared, alone = (
        ({"role": "system", "content": [{"type": "text", "text": "T"}]},),
        ({"role": "user", "content": "Hi"},),
        (),
    )
    prompts, found = preloaded(own, shared, alone, **rules)
    assert found == []
    asked = parse_chat(ruled({"messages": list(shared)}, defaults=rules["defaults"])).generate_request("S").prompt
    assert prompts[1] == asked
    system = {"role": "system", "content": "S"}
    assert [prompt.messages for prompt in prompts] == [
        ({"role": "system", "content": "T"},),
        (system, {"role": "user", "content": "Hi"}),
        (system,),
    ]
    assert all(prompt.template_kwargs == {"x": 1} for prompt in prompts)


def test_messages_that_no_request_may_have_are_faults_by_their_place() -> None:
    _, found = preloaded(({"role": "user", "content": "fine"},), ({"role": "boss", "content": "x"},), ())
    assert [key for key, _ in found] == ["preload[1]", "preload[2]"]
    assert found[0][1].startswith("messages[0].role must be")
    assert found[1][1] == "messages must not be empty"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_prompt_goes_only_where_there_are_no_instructions(role: str) -> None:
    def roles(*messages: dict[str, Any]) -> list[str]:
        prompt = parse_chat({"messages": list(messages)}).generate_request("Be kind.").prompt
        assert isinstance(prompt, ChatPrompt)
        return [message["role"] for message in prompt.messages]

    assert roles(USER) == ["system", "user"]
    assert roles(USER, {"role": role, "content": "Be terse."}) == ["user", role]
