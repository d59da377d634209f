"""Fake models that pool, loadable by name in a worker: ``localllm.testing.poolers:load_fake_pooler``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.contract.backend import LoadRequest
from localllm.contract.model import ModelInfo
from localllm.contract.pooling import PoolCapabilities, PoolingInfo, PoolingKind, PoolItem, ScoreScale
from localllm.testing.byte_text import N_VOCAB
from localllm.testing.fake_pooler import ByteEncoder, FakePooler, fake_vector
from localllm.testing.faults import FaultSettings

__all__ = ["ByteEncoder", "FakePoolSettings", "FakePooler", "FakePoolingModel", "fake_vector", "load_fake_pooler"]


@dataclass(frozen=True, slots=True)
class FakePoolSettings(FaultSettings):
    """What a fake model that pools can be told, besides its faults. Plain JSON.

    ``record`` is a file to which each batch adds a line: the JSON list of its texts' lengths in tokens. ``gate`` is a
    named pipe that is opened and read to its end in the step after ``gate_after_steps`` others, so that a test holds
    the worker in a batch until it writes there.
    """

    context_length: int = 512
    batch_tokens: int = 64
    batch_texts: int = 8
    kind: PoolingKind = "mean"
    dimensions: int = 8
    scale: ScoreScale | None = None
    record: str | None = None
    gate: str | None = None
    gate_after_steps: int = 1  # the first step is the self-test

    def pooling(self) -> PoolingInfo:
        """Return what the model gives."""
        if self.kind == "rank":
            return PoolingInfo("rank", 1, self.scale or "logit")
        return PoolingInfo(self.kind, self.dimensions, self.scale)

    def capabilities(self) -> PoolCapabilities:
        """Return what a batch may hold."""
        return PoolCapabilities(self.context_length, self.batch_tokens, self.batch_texts)


@dataclass(frozen=True, slots=True)
class FakePoolingModel:
    """A loaded model without a model."""

    info: ModelInfo
    pooler: FakePooler
    encoder: ByteEncoder

    def close(self) -> None:
        """Nothing to free."""


class _Steps:
    """What the settings want to happen in each step."""

    def __init__(self, settings: FakePoolSettings) -> None:
        self._settings = settings
        self._faults = settings.step_faults()
        self._n_steps = 0

    def __call__(self, batch: Sequence[PoolItem]) -> None:
        settings, n_before = self._settings, self._n_steps
        self._n_steps += 1
        if settings.record is not None:
            with Path(settings.record).open("a", encoding="utf-8") as file:
                file.write(json.dumps([len(item.tokens) for item in batch]) + "\n")
        if settings.gate is not None and n_before == settings.gate_after_steps:
            Path(settings.gate).read_bytes()
        for after_steps, call in self._faults:
            if n_before >= after_steps:
                call()


def load_fake_pooler(request: LoadRequest) -> FakePoolingModel:
    """Load a model whose vectors are hashes, with the keys of :class:`FakePoolSettings` as its settings."""
    settings = FakePoolSettings.read(request.settings, {})
    settings.meet_load_faults(request)
    pooling = settings.pooling()
    pooler = FakePooler(settings.capabilities(), pooling, before_batch=_Steps(settings))
    info = ModelInfo(settings.context_length, N_VOCAB, description="fake pooler", pooling=pooling)
    return FakePoolingModel(info, pooler, ByteEncoder())
