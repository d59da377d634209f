"""Whatever JSON stands in whatever field: a valid request, or one typed error that names the field."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError
from localllm.openai import ChatCompletionRequest, CompletionRequest, parse_chat, parse_completion
from localllm.openai.unsupported import CHAT_REFUSALS, COMPLETION_REFUSALS

EXAMPLES = 2000 if os.environ.get("LOCALLLM_TEST_FULL") == "1" else 200
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 40)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["text", "user", "auto", "none", "1", "refusal", "image_url", "tool", "assistant", "\ud800", "", "{}"]
    )
)
KEYS = st.sampled_from(
    ["role", "content", "type", "text", "name", "tool_calls", "1", "7", "include_usage", "schema", "json"]
) | st.text(max_size=5)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def names_of(model: type[ChatCompletionRequest] | type[CompletionRequest], refusals: Any) -> list[str]:
    aliases = {"repetition_penalty", "repeat_penalty_num", "n_predict", "typical", "mirostat_mode", "reasoning_budget"}
    return sorted({*model.model_fields, *refusals, *aliases})


CHAT_NAMES = names_of(ChatCompletionRequest, CHAT_REFUSALS)
COMPLETION_NAMES = names_of(CompletionRequest, COMPLETION_REFUSALS)


def root(param: str) -> str:
    return param.split("[")[0].split(".")[0]


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dictionaries(st.sampled_from(CHAT_NAMES), JSON, max_size=4))
def test_any_chat_body_is_a_request_or_an_error_with_param(body: dict[str, Any]) -> None:
    try:
        request = parse_chat({"messages": [{"role": "user", "content": "Hi"}], **body}).generate_request()
    except (InvalidRequestError, UnsupportedFeatureError) as error:
        assert error.param is not None
        assert root(error.param) in CHAT_NAMES
        assert len(error.message.encode()) < 2500
    else:
        assert 1 <= request.sampling.n <= 32


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dictionaries(st.sampled_from(COMPLETION_NAMES), JSON, max_size=4))
def test_any_completion_body_is_a_request_or_an_error_with_param(body: dict[str, Any]) -> None:
    try:
        requests = parse_completion({"prompt": "a", **body}).generate_requests()
    except (InvalidRequestError, UnsupportedFeatureError) as error:
        assert error.param is not None
        assert root(error.param) in COMPLETION_NAMES
        assert len(error.message.encode()) < 2500
    else:
        assert 1 <= len(requests) * requests[0].sampling.n <= 128
        assert requests[0].sampling.max_tokens != 0 or requests[0].prompt_logprobs is not None


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional={"role": JSON, "content": JSON, "tool_calls": JSON}) | JSON))
def test_any_messages_are_a_prompt_or_an_error_with_param(messages: list[Any]) -> None:
    try:
        request = parse_chat({"messages": messages}).generate_request()
    except (InvalidRequestError, UnsupportedFeatureError) as error:
        assert error.param is not None
        assert root(error.param) == "messages"
    else:
        assert len(request.prompt.messages) == len(messages)  # type: ignore[union-attr]
