"""Texts are answered on the intake thread, from tokenizer and template alone; a cancelled one costs no answer."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.backend import LoadRequest
from localllm.contract.chat_format import CallFormat, RenderedPrompt, ReplyRules
from localllm.contract.errors import InvalidRequestError, ModelUnsupportedError, UnsupportedFeatureError
from localllm.contract.generation import ChatPrompt, Constraint, TextPrompt
from localllm.contract.model import Mode
from localllm.contract.texts import DetokenizeRequest, RenderRequest, TextRequest, TextResult, TokenizeRequest
from localllm.contract.wire import Batch, Submit
from localllm.testing.decoders import FakeModel, load_fake
from localllm.testing.poolers import load_fake_pooler
from localllm.transport.codec import decode_from_worker
from localllm.transport.framing import FrameReader
from localllm.worker.discipline import discipline_of
from localllm.worker.inbox import Arrival, Inbox
from localllm.worker.outbox import Outbox
from localllm.worker.preparer import Preparer
from localllm.worker.texts import answer_text

HELLO = ChatPrompt(({"role": "user", "content": "hello"},))


def model() -> FakeModel:
    return load_fake(LoadRequest("m", None, Mode.GENERATE, {"context_length": 8}))


def test_a_text_may_be_longer_than_the_context() -> None:
    text = TextPrompt("a" * 100)
    assert answer_text(TokenizeRequest(text), model()) == TextResult(tokens=(97,) * 100)


def test_specials_and_pieces_are_as_asked_for() -> None:
    asked = TokenizeRequest(TextPrompt("<|end|>"), add_special=True, parse_special=False, with_pieces=True)
    result = answer_text(asked, model())
    assert result.tokens == (257, *b"<|end|>")
    assert b"".join(result.pieces) == b"<|begin|><|end|>"
    assert answer_text(TokenizeRequest(TextPrompt("<|end|>")), model()).tokens == (256,)


def test_a_conversation_is_what_its_template_says_whatever_is_asked_for_texts() -> None:
    rendered = answer_text(RenderRequest(HELLO), model()).text
    assert rendered == "user: hello\nassistant:"
    asked = TokenizeRequest(HELLO, add_special=True, parse_special=False)
    assert answer_text(asked, model()).tokens == tuple(rendered.encode())


def test_a_conversation_with_tools_is_shown_and_counted_as_it_would_be_generated_from() -> None:
    class Caller:
        def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
            return RenderedPrompt(f"{len(prompt.tools)} tools<|end|>", ReplyRules(calls=CallFormat("json")))

    fake = model()
    caller = FakeModel(fake.info, fake.decoder, fake.tokenizer, Caller())
    prompt = ChatPrompt(HELLO.messages, tools=({"type": "function", "function": {"name": "get"}},))
    assert answer_text(RenderRequest(prompt), caller).text == "1 tools<|end|>"
    assert answer_text(TokenizeRequest(prompt), caller).tokens == (*b"1 tools", 256)
    with pytest.raises(UnsupportedFeatureError) as caught:
        answer_text(RenderRequest(prompt), fake)
    assert caught.value.param == "tools"


def test_tokens_are_spelled_and_unknown_ones_refused() -> None:
    assert answer_text(DetokenizeRequest((104, 105, 256)), model()).text == "hi<|end|>"
    with pytest.raises(InvalidRequestError, match="9999") as caught:
        answer_text(DetokenizeRequest((1, 9999)), model())
    assert caught.value.param == "tokens"


def test_a_model_without_a_template_renders_nothing() -> None:
    fake = model()
    with pytest.raises(InvalidRequestError) as caught:
        answer_text(RenderRequest(HELLO), FakeModel(fake.info, fake.decoder, fake.tokenizer, None))
    assert caught.value.param == "messages"


class Kit:
    """The preparer of a loaded fake; nobody steps."""

    def __init__(self) -> None:
        self.inbox: Inbox[Any] = Inbox()
        self.sent: list[Batch] = []
        discipline = discipline_of(model(), Mode.GENERATE, "m", lambda: 0.0)
        self.preparer = Preparer(discipline, self.inbox, Outbox(self._write, is_writable=lambda: True))

    def _write(self, data: bytes) -> None:
        for payload in FrameReader().feed(data):
            message = decode_from_worker(payload)
            assert isinstance(message, Batch)
            self.sent.append(message)

    def prepare(self, request_id: str, request: TextRequest, *, cancelled: bool = False) -> None:
        self.inbox.submit(Arrival(Submit(request_id, request), at=0.0))
        self.preparer._begin(self.inbox.next_arrival())
        if cancelled:
            self.inbox.cancel(request_id)
        self.preparer._go_on(self.preparer._turns.popleft())


def test_the_intake_thread_sends_the_answer_itself() -> None:
    kit = Kit()
    kit.prepare("r1", RenderRequest(HELLO))
    kit.prepare("r2", DetokenizeRequest((104,)))
    assert [batch.events for batch in kit.sent] == [
        (("r1", TextResult("user: hello\nassistant:")),),
        (("r2", TextResult("h")),),
    ]
    kit.inbox.shut_down()
    assert kit.inbox.take(block=True).submits == ()


def test_a_cancelled_one_is_not_answered() -> None:
    kit = Kit()
    kit.prepare("r1", RenderRequest(HELLO), cancelled=True)
    assert kit.sent == []


def test_a_model_that_pools_refuses_texts_to_convert() -> None:
    pooler = load_fake_pooler(LoadRequest("m", None, Mode.POOL))
    discipline = discipline_of(pooler, Mode.POOL, "m", lambda: 0.0)
    with pytest.raises(ModelUnsupportedError):
        next(discipline.prepare(Submit("r1", RenderRequest(HELLO)), 0.0))
