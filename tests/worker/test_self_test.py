"""The self-test runs big and small kernels once and leaves the memory as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from localllm.contract.backend import LoadRequest
from localllm.contract.decoder import Sampled, SequenceKey
from localllm.contract.errors import ModelFileError, ModelLoadError
from localllm.contract.model import Mode
from localllm.testing.decoders import END_TOKEN, FakeDecoder, FakeModel, load_fake
from localllm.worker.self_test import PROMPT_TOKENS, run_self_test


def fake(**settings: object) -> tuple[FakeModel, FakeDecoder]:
    model = load_fake(LoadRequest("m", None, Mode.GENERATE, settings))
    assert isinstance(model.decoder, FakeDecoder)
    return model, model.decoder


def test_it_evaluates_a_prompt_in_one_plan_then_one_token_and_forgets_both() -> None:
    model, decoder = fake()
    run_self_test(model, "m")
    assert [plan.n_tokens for plan in decoder.plans] == [PROMPT_TOKENS, 1, 0]
    assert PROMPT_TOKENS >= 32
    assert decoder.memory.held(0) == 0
    assert decoder.memory.n_cells_used == 0


@pytest.mark.parametrize(
    "settings",
    [{"n_batch": 8}, {"n_batch": 1}, {"context_length": 3, "n_cells": 64}, {"can_truncate": False}, {"n_seq_max": 1}],
)
def test_it_keeps_to_what_the_model_can_do(settings: dict[str, object]) -> None:
    model, decoder = fake(**settings)
    run_self_test(model, "m")
    assert decoder.memory.n_cells_used == 0


def test_an_engine_that_draws_nothing_fails_to_load() -> None:
    class Mute(FakeDecoder):
        def collect(self) -> Mapping[SequenceKey, Sequence[Sampled]]:
            super().collect()
            return {}

    model, decoder = fake()
    mute = FakeModel(model.info, Mute(decoder.capabilities), model.tokenizer, model.renderer)
    with pytest.raises(ModelLoadError, match="drew no token"):
        run_self_test(mute, "m")


def test_weights_that_compute_no_numbers_are_a_corrupt_file() -> None:
    class Corrupt(FakeDecoder):
        def collect(self) -> Mapping[SequenceKey, Sequence[Sampled]]:
            return {key: [Sampled(END_TOKEN, is_end=True)] for key in super().collect()}

    model, decoder = fake()
    corrupt = FakeModel(model.info, Corrupt(decoder.capabilities), model.tokenizer, model.renderer)
    with pytest.raises(ModelFileError, match="not a number"):
        run_self_test(corrupt, "m")
