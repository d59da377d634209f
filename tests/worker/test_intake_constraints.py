"""Constraints are compiled before the step thread sees their request."""

from __future__ import annotations

from typing import Any

import pytest

from localllm.contract.backend import LoadRequest
from localllm.contract.errors import InvalidRequestError, UnsupportedFeatureError
from localllm.contract.generation import Constraint, GenerateRequest, SamplingParams, Started, TokenPrompt
from localllm.contract.model import Mode
from localllm.contract.wire import Submit
from localllm.engine.step_loop import PreparedRequest, StepLoop
from localllm.testing.decoders import FakeModel, load_fake
from localllm.testing.fake_constraints import IMPOSSIBLE
from localllm.worker.intake import prepare


def model(**settings: Any) -> FakeModel:
    return load_fake(LoadRequest("m", None, Mode.GENERATE, settings))


def intake(constraint: Constraint | None, fake: FakeModel, **sampling: Any) -> PreparedRequest:
    request = GenerateRequest(TokenPrompt((1, 2)), SamplingParams(constraint=constraint, **sampling))
    return prepare(Submit("r1", request), fake, queued_at=0.0)


@pytest.mark.parametrize("max_tokens", [1, 0])
def test_warnings_of_the_compiler_come_with_the_beginning(max_tokens: int) -> None:
    fake = model()
    prepared = intake(Constraint("json_schema", IMPOSSIBLE, strict=False), fake, max_tokens=max_tokens)
    (warning,) = prepared.warnings
    loop = StepLoop(fake.decoder, fake.tokenizer, lambda: 0.0)
    loop.submit(prepared)
    assert loop.take_events()[0] == ("r1", Started(2, (warning,)))


def test_without_a_constraint_nothing_is_compiled() -> None:
    assert intake(None, model(can_constrain=False)).warnings == ()
    assert intake(Constraint("regex", "a"), model()).warnings == ()


def test_what_the_compiler_refuses_never_reaches_the_scheduler() -> None:
    with pytest.raises(InvalidRequestError, match=IMPOSSIBLE) as caught:
        intake(Constraint("json_schema", IMPOSSIBLE, param="text.format"), model())
    assert caught.value.param == "text.format"


@pytest.mark.parametrize(("named", "param"), [("", "response_format"), ("grammar", "grammar")])
def test_an_engine_that_heeds_no_constraint_says_so(named: str, param: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match="schema or a grammar") as caught:
        intake(Constraint("gbnf", 'root ::= "a"', param=named), model(can_constrain=False))
    assert caught.value.param == param
