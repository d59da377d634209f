"""The self-test of a model that pools: one batch of two texts, whose vectors must be numbers of the right count."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest

from localllm.contract.backend import LoadRequest
from localllm.contract.errors import ModelFileError, ModelLoadError
from localllm.contract.model import Mode, ModelInfo
from localllm.contract.pooling import PoolingInfo, PoolItem
from localllm.testing.decoders import load_fake
from localllm.testing.fake_pooler import FakePooler
from localllm.testing.poolers import FakePoolingModel, load_fake_pooler
from localllm.worker.discipline import discipline_of
from localllm.worker.self_test import PROMPT_TOKENS


def load(**settings: Any) -> FakePoolingModel:
    return load_fake_pooler(LoadRequest("m", None, Mode.POOL, settings))


def self_test(model: FakePoolingModel) -> None:
    discipline_of(model, Mode.POOL, "m", lambda: 0.0).self_test("m")


def test_it_pools_two_different_texts_that_fill_matrix_kernels() -> None:
    model = load(batch_tokens=256)
    self_test(model)
    (batch,) = model.pooler.batches
    assert [len(item.tokens) for item in batch] == [PROMPT_TOKENS] * 2
    assert batch[0].tokens != batch[1].tokens


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_texts": 1},
        {"batch_tokens": 1},
        {"batch_tokens": 9},
        {"context_length": 1},
        {"context_length": 3, "batch_tokens": 256},
        {"kind": "rank"},
        {"kind": "rank", "batch_tokens": 5},
    ],
)
def test_it_keeps_to_what_the_model_can_do(settings: dict[str, Any]) -> None:
    model = load(**settings)  # the fake refuses what no batch may be
    self_test(model)
    assert len(model.pooler.batches) == 1


class Answering(FakePooler):
    """Answers every item with the same bytes."""

    answer: Sequence[bytes] = ()

    def pool(self, batch: Sequence[PoolItem]) -> Sequence[bytes]:
        return self.answer


def answering(*vectors: bytes) -> FakePoolingModel:
    model = load()
    pooler = Answering(model.pooler.capabilities, PoolingInfo("mean", 8))
    pooler.answer = vectors
    return FakePoolingModel(model.info, pooler, model.encoder)


@pytest.mark.parametrize("vectors", [(), (bytes(32),), (bytes(32), bytes(28)), (bytes(32),) * 3])
def test_other_vectors_than_asked_for_fail_the_load(vectors: tuple[bytes, ...]) -> None:
    with pytest.raises(ModelLoadError, match="not 2 of 32"):
        self_test(answering(*vectors))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_compute_no_numbers_are_a_corrupt_file(number: float) -> None:
    with pytest.raises(ModelFileError, match="not a number"):
        self_test(answering(bytes(32), struct.pack("<8f", *[1.0] * 7, number)))


def test_a_factory_that_ignores_the_mode_fails_the_load() -> None:
    writer = load_fake(LoadRequest("m", None, Mode.GENERATE))
    with pytest.raises(ModelLoadError, match=r"'m'.*no pooler"):
        discipline_of(writer, Mode.POOL, "m", lambda: 0.0)
    with pytest.raises(ModelLoadError, match=r"'m'.*no decoder"):
        discipline_of(load(), Mode.GENERATE, "m", lambda: 0.0)
    model = load()
    silent = FakePoolingModel(ModelInfo(512, 258), model.pooler, model.encoder)
    with pytest.raises(ModelLoadError, match=r"info\.pooling"):
        discipline_of(silent, Mode.POOL, "m", lambda: 0.0)
