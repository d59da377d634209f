"""Prompts become tokens, or an error that names the field and both counts."""

from __future__ import annotations

from typing import Literal

import pytest

from localllm.contract.backend import LoadRequest
from localllm.contract.chat_format import CallFormat, RenderedPrompt, ReplyRules, Tool
from localllm.contract.errors import ContextLengthExceededError, InvalidRequestError, UnsupportedFeatureError
from localllm.contract.generation import (
    ChatPrompt,
    Constraint,
    GenerateRequest,
    InfillPrompt,
    Prompt,
    SamplingParams,
    TextPrompt,
    TokenPrompt,
)
from localllm.contract.model import Mode
from localllm.contract.wire import Submit
from localllm.engine.step_loop import PreparedRequest
from localllm.testing.decoders import ByteTokenizer, FakeModel, load_fake
from localllm.worker.intake import prepare

SILENT = SamplingParams()
HELLO = ChatPrompt(({"role": "user", "content": "hello"},))


def model(context_length: int = 64) -> FakeModel:
    return load_fake(LoadRequest("m", None, Mode.GENERATE, {"context_length": context_length}))


def intake(prompt: Prompt, sampling: SamplingParams = SILENT, **settings: int) -> PreparedRequest:
    request = GenerateRequest(prompt, sampling, owner="key", cache_prompt=False)
    return prepare(Submit("r1", request), model(**settings), queued_at=3.5)


def test_a_chat_is_rendered_by_the_models_template_and_tokenised() -> None:
    fake = model()
    assert fake.renderer is not None
    text = fake.renderer.render(HELLO).text
    request = intake(HELLO)
    assert request.prompt == tuple(fake.tokenizer.encode(text, add_special=False, parse_special=True))
    assert (request.request_id, request.owner, request.cache_prompt, request.queued_at) == ("r1", "key", False, 3.5)


def test_raw_text_gets_the_models_own_beginning_and_tokens_are_taken_as_they_are() -> None:
    fake = model()
    assert intake(TextPrompt("hi")).prompt == tuple(fake.tokenizer.encode("hi", add_special=True, parse_special=True))
    assert intake(TokenPrompt((5, 6, 7))).prompt == (5, 6, 7)


def test_a_gap_is_marked_by_the_models_own_tokens_and_texts_can_not_forge_them() -> None:
    tokens = intake(InfillPrompt("ab", "<|end|>c")).prompt
    assert tokens == (257, 258, *b"ab", 259, *b"<|end|>c", 260)
    assert intake(InfillPrompt("", "")).prompt == (257, 258, 259, 260)
    with pytest.raises(ContextLengthExceededError):
        intake(InfillPrompt("a" * 30, "b" * 30))


def test_a_model_that_can_not_fill_gaps_refuses_a_suffix() -> None:
    class Plain(ByteTokenizer):
        @property
        def infill_tokens(self) -> None:  # type: ignore[override]
            return None

    fake = model()
    bare = FakeModel(fake.info, fake.decoder, Plain(), None)
    with pytest.raises(UnsupportedFeatureError) as caught:
        prepare(Submit("r1", GenerateRequest(InfillPrompt("a", "b"))), bare, queued_at=0.0)
    assert caught.value.param == "suffix"


@pytest.mark.parametrize("wanted", [None, 0, 5])
def test_prompt_logprobs_reach_the_engine(wanted: int | None) -> None:
    request = GenerateRequest(TextPrompt("hi"), prompt_logprobs=wanted)
    assert prepare(Submit("r1", request), model(), queued_at=0.0).prompt_logprobs == wanted


def test_a_prompt_that_leaves_no_room_for_an_answer_names_both_counts() -> None:
    assert len(intake(TokenPrompt((1,) * 63)).prompt) == 63
    with pytest.raises(ContextLengthExceededError) as caught:
        intake(TokenPrompt((1,) * 64))
    assert caught.value.detail == {"n_prompt_tokens": 64, "n_ctx": 64}
    assert caught.value.param == "prompt"
    with pytest.raises(ContextLengthExceededError) as caught:
        intake(ChatPrompt(({"role": "user", "content": "x" * 500},)))
    assert caught.value.param == "messages"
    assert caught.value.detail["n_prompt_tokens"] > 500


@pytest.mark.parametrize("token", [-1, 261, 2**40])
def test_a_token_outside_the_vocabulary_is_refused_by_number(token: int) -> None:
    with pytest.raises(InvalidRequestError, match=str(token)) as caught:
        intake(TokenPrompt((1, token)))
    assert caught.value.param == "prompt"
    with pytest.raises(InvalidRequestError, match=str(token)) as caught:
        intake(TokenPrompt((1,)), SamplingParams(logit_bias=((token, 1.0),)))
    assert caught.value.param == "logit_bias"


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="empty") as caught:
        intake(TokenPrompt(()))
    assert caught.value.param == "prompt"


def test_a_model_without_a_template_says_where_to_go_instead() -> None:
    fake = model()
    bare = FakeModel(fake.info, fake.decoder, fake.tokenizer, None)
    with pytest.raises(InvalidRequestError, match="/v1/completions"):
        prepare(Submit("r1", GenerateRequest(HELLO)), bare, queued_at=0.0)


def test_the_templates_own_words_come_through() -> None:
    class Picky:
        def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
            raise InvalidRequestError("Conversation roles must alternate", param="messages")

    fake = model()
    with pytest.raises(InvalidRequestError, match="must alternate"):
        prepare(
            Submit("r1", GenerateRequest(HELLO)),
            FakeModel(fake.info, fake.decoder, fake.tokenizer, Picky()),
            queued_at=0.0,
        )


TOOLS = ({"type": "function", "function": {"name": "get", "parameters": {}}},)


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_renderer_that_knows_of_no_tools_gets_none(choice: Literal["auto", "required"]) -> None:
    with pytest.raises(UnsupportedFeatureError, match="can't call tools") as caught:
        intake(ChatPrompt(HELLO.messages, tools=TOOLS, tool_choice=choice))
    assert caught.value.param == "tools"
    assert intake(ChatPrompt(HELLO.messages, tools=TOOLS, tool_choice="none")).prompt == intake(HELLO).prompt


def test_what_the_renderer_says_of_the_reply_reaches_the_engine() -> None:
    """The constraint that it returns is what counts, its warnings come before those of the compiler."""
    rules = ReplyRules(calls=CallFormat("json"), tools=(Tool("get"),), in_thought=True)
    asked: list[tuple[ChatPrompt, Constraint | None]] = []

    class Caller:
        def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
            asked.append((prompt, constraint))
            return RenderedPrompt("hi<|end|>", rules, Constraint("regex", "whole"), ("Mind the gap.",))

    class Compiler:
        def compile(self, constraint: Constraint) -> tuple[str, ...]:
            return (f"{constraint.source} compiled",)

    fake = model()
    caller = FakeModel(fake.info, fake.decoder, fake.tokenizer, Caller(), constraints=Compiler())
    prompt = ChatPrompt(HELLO.messages, tools=TOOLS)
    content = Constraint("json_object")
    submit = Submit("r1", GenerateRequest(prompt, SamplingParams(constraint=content)))
    prepared = prepare(submit, caller, queued_at=0.0)
    assert asked == [(prompt, content)]
    assert prepared.reply == rules
    assert prepared.sampling.constraint == Constraint("regex", "whole")
    assert prepared.warnings == ("Mind the gap.", "whole compiled")
    assert prepared.prompt == (*b"hi", 256)
