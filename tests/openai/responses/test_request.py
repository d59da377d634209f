"""The fields of the request: what reaches the engine, what is repeated in the response, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.errors import InvalidRequestError, LocalLLMError, UnsupportedFeatureError
from localllm.contract.generation import ChatPrompt, GenerateRequest
from localllm.openai.responses import ResponseHead, new_response_id, parse_response, parse_simple
from tests.openai.responses.wire_spec import check_response

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "name": "f", "description": "Does f.", "parameters": SCHEMA, "strict": True}


def asked(**fields: Any) -> GenerateRequest:
    request = parse_response({"input": "Hi", **fields})
    return request.generate_request(request.input.items)


def prompt(**fields: Any) -> ChatPrompt:
    found = asked(**fields).prompt
    assert isinstance(found, ChatPrompt)
    return found


def shown(**fields: Any) -> dict[str, Any]:
    body = ResponseHead(new_response_id(), 1, "demo", parse_response({"input": "Hi", **fields})).body("in_progress")
    check_response(body)
    return body


def refused(**fields: Any) -> LocalLLMError:
    with pytest.raises((InvalidRequestError, UnsupportedFeatureError)) as caught:
        asked(**fields)
    return caught.value


def test_sampling() -> None:
    sampling = asked(temperature=0.5, top_p=0.3, max_output_tokens=7, seed=3, top_k=5, stop="x").sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.5, 0.3, 7)
    assert (sampling.seed, sampling.top_k, sampling.stop, sampling.logprobs) == (3, 5, ("x",), None)
    body = shown(temperature=0.5, top_p=0.3, max_output_tokens=7)
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.5, 0.3, 7)


@pytest.mark.parametrize("name", ["max_output_tokens", "max_tokens", "max_completion_tokens", "n_predict"])
def test_the_limit_has_the_names_that_other_endpoints_know(name: str) -> None:
    assert asked(**{name: 5}).sampling.max_tokens == 5
    assert shown(**{name: 5})["max_output_tokens"] == 5
    assert asked(**{name: -1}).sampling.max_tokens is None
    assert shown(**{name: -1})["max_output_tokens"] is None
    assert refused(**{name: 0}).param == name


def test_log_probabilities_are_asked_for_in_two_ways() -> None:
    assert asked(include=["message.output_text.logprobs"]).sampling.logprobs == 0
    assert asked(top_logprobs=3).sampling.logprobs == 3
    assert asked(include=["reasoning.encrypted_content", "file_search_call.results"]).sampling.logprobs is None


def test_instructions_come_first_and_win_over_the_model_s_own() -> None:
    request = parse_response({"input": "Hi", "instructions": "Be brief."})
    for system_prompt in (None, "Be kind."):
        made = request.generate_request(request.input.items, system_prompt).prompt
        assert isinstance(made, ChatPrompt)
        assert made.messages[0] == {"role": "system", "content": "Be brief."}
        assert len(made.messages) == 2
    plain = parse_response({"input": "Hi"})
    own = plain.generate_request(plain.input.items, "Be kind.").prompt
    assert isinstance(own, ChatPrompt)
    assert own.messages[0] == {"role": "system", "content": "Be kind."}
    developer = parse_response({"input": [{"role": "developer", "content": "D"}]})
    alone = developer.generate_request(developer.input.items, "Be kind.").prompt
    assert isinstance(alone, ChatPrompt)
    assert alone.messages == ({"role": "developer", "content": "D"},)


@pytest.mark.parametrize(
    "form", [TOOL, {"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}]
)
def test_functions_in_either_endpoint_s_form(form: dict[str, Any]) -> None:
    assert prompt(tools=[form]).tools == (
        {"type": "function", "function": {"name": "f", "description": "Does f.", "parameters": SCHEMA, "strict": True}},
    )
    assert shown(tools=[form])["tools"] == [TOOL]


def test_a_function_that_does_not_say_strict_is_not() -> None:
    bare = {"type": "function", "name": "f"}
    assert "strict" not in prompt(tools=[bare]).tools[0]["function"]
    assert shown(tools=[bare])["tools"][0]["strict"] is False


OTHERS = ["web_search", "file_search", "custom", "local_shell", "mcp", "namespace", "image_generation", "never_heard"]


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("choice", ["auto", "none", "required", None])
def test_tools_that_are_no_functions_are_left_out_with_a_warning(kind: str, choice: str | None) -> None:
    fields = {"tools": [{"type": kind, "name": "x"}, TOOL], "tool_choice": choice}
    assert [tool["function"]["name"] for tool in prompt(**fields).tools] == ["f"]
    assert kind in parse_response({"input": "Hi", **fields}).warnings()[0]
    assert shown(**fields)["tools"] == [TOOL]
    alone = prompt(tools=[{"type": kind}], tool_choice=choice)
    assert (alone.tools, alone.tool_choice) == ((), "auto")


@pytest.mark.parametrize(
    ("choice", "mode", "name", "told"),
    [
        ("none", "none", None, "none"),
        ("auto", "auto", None, "auto"),
        ("required", "required", None, "required"),
        ({"type": "function", "name": "f"}, "required", "f", {"type": "function", "name": "f"}),
        ({"type": "function", "function": {"name": "f"}}, "required", "f", {"type": "function", "name": "f"}),
        ({"type": "web_search_preview"}, "auto", None, "auto"),
        ({"type": "mcp", "server_label": "x"}, "auto", None, "auto"),
    ],
)
def test_which_function_is_called(choice: Any, mode: str, name: str | None, told: Any) -> None:
    made = prompt(tools=[TOOL], tool_choice=choice)
    assert (made.tool_choice, made.tool_name) == (mode, name)
    assert shown(tools=[TOOL], tool_choice=choice)["tool_choice"] == told


def test_allowed_tools() -> None:
    other = {"type": "function", "name": "g"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [other, {"type": "mcp", "server_label": "x"}]}
    made = prompt(tools=[TOOL, other], tool_choice=allowed)
    assert [tool["function"]["name"] for tool in made.tools] == ["g"]
    assert made.tool_choice == "required"
    body = shown(tools=[TOOL, other], tool_choice=allowed)
    assert body["tool_choice"] == {"type": "allowed_tools", "mode": "required", "tools": [other]}
    only_mcp = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}
    assert prompt(tools=[TOOL], tool_choice=only_mcp).tool_choice == "none"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL, {"type": "function", "name": "a b"}]}, "tools[1].name"),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": 5}]}, "tools[0].parameters"),
        ({"tools": [TOOL, {**TOOL, "description": "Else."}]}, "tools[1].name"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [5]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "x", "tools": [TOOL]}}, "tool_choice.mode"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": 5}}, "tool_choice.tools"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {}}, "tool_choice.type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": 5}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "name": 5, "schema": {}}}}, "text.format.name"),
        ({"text": {"verbosity": "chatty"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_object"}}, "guided_regex": "a"}, "guided_regex"),
        ({"n": 2}, "n"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "conversation"),
        ({"background": True, "store": False}, "background"),
        ({"conversation": {"id": 5}}, "conversation.id"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"truncation": "maybe"}, "truncation"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize("form", ["flat", "as chat has it"])
def test_an_answer_is_held_to_a_schema(form: str) -> None:
    inner = {"name": "x", "schema": SCHEMA, "strict": True, "description": "X."}
    told = {"type": "json_schema", **(inner if form == "flat" else {"json_schema": inner})}
    constraint = asked(text={"format": told}).sampling.constraint
    assert constraint is not None
    assert (constraint.kind, constraint.strict, constraint.param) == ("json_schema", True, "text.format")
    assert shown(text={"format": told})["text"] == {"format": {"type": "json_schema", **inner}, "verbosity": "medium"}


def test_an_answer_is_any_object() -> None:
    constraint = asked(text={"format": {"type": "json_object"}, "verbosity": "low"}).sampling.constraint
    assert constraint is not None
    assert constraint.kind == "json_object"
    assert shown(text={"verbosity": "low"})["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert asked(text={"format": {"type": "text"}}).sampling.constraint is None


def test_how_hard_it_thinks() -> None:
    assert prompt(reasoning={"effort": "low", "summary": "auto"}).template_kwargs["reasoning_effort"] == "low"
    assert prompt(reasoning={"effort": "none"}).template_kwargs["enable_thinking"] is False
    assert shown(reasoning={"effort": "low", "summary": "auto"})["reasoning"] == {"effort": "low", "summary": "auto"}
    assert prompt(reasoning={"max_tokens": 9}).thought_budget == 9


def test_what_changes_nothing_is_repeated() -> None:
    fields = {
        "metadata": {"k": "v"},
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "p",
        "max_tool_calls": 3,
        "truncation": "auto",
        "parallel_tool_calls": False,
        "top_logprobs": 2,
        "instructions": "I",
    }
    body = shown(**fields, service_tier="flex", stream_options={"include_obfuscation": False})
    assert {name: body[name] for name in fields} == fields
    assert body["service_tier"] == "default"
    assert prompt(parallel_tool_calls=False).parallel_tool_calls is False


def test_null_is_absent_everywhere() -> None:
    names = [name for name in ResponseFields if name != "input"]
    assert asked(**dict.fromkeys(names)) == asked()


ResponseFields = type(parse_response({"input": "Hi"})).model_fields


def test_the_simple_shape() -> None:
    request = parse_simple({"input": "Hi", "instructions": "Be brief.", "temperature": 0.2})
    made = request.generate_request(None, temperature=0.7)
    assert isinstance(made.prompt, ChatPrompt)
    assert made.prompt.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"})
    assert made.sampling.temperature == 0.2
    assert parse_simple({"input": "Hi"}).generate_request(None, temperature=0.7).sampling.temperature == 0.7
    for body, param in [({}, "input"), ({"input": [1]}, "input"), ({"input": ""}, "input")]:
        with pytest.raises(InvalidRequestError) as caught:
            parse_simple(body)
        assert caught.value.param == param
