"""Fake models for tests, loadable by name in a worker: ``localllm.testing.decoders:load_fake`` and its faulty sisters.

All factories take the keys of :class:`FakeSettings` as the model's settings, and differ in their defaults only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from localllm.contract.backend import LoadRequest
from localllm.contract.decoder import (
    Capabilities,
    ConstraintCompiler,
    Decoder,
    KvLayout,
    PromptRenderer,
    StateSaving,
    Tokenizer,
)
from localllm.contract.model import ModelInfo
from localllm.testing.byte_text import N_VOCAB, ByteTokenizer, PlainRenderer
from localllm.testing.fake_constraints import FakeConstraints
from localllm.testing.fake_decoder import (
    END_TOKEN,
    CrashingDecoder,
    EchoDecoder,
    FakeDecoder,
    SlowDecoder,
    WrappedDecoder,
)
from localllm.testing.fake_memory import ContractViolation, FakeMemory
from localllm.testing.faults import FaultSettings

__all__ = [
    "END_TOKEN",
    "ByteTokenizer",
    "ContractViolation",
    "CrashingDecoder",
    "EchoDecoder",
    "FakeDecoder",
    "FakeMemory",
    "FakeModel",
    "FakeSettings",
    "PlainRenderer",
    "SlowDecoder",
    "WrappedDecoder",
    "load_crashing",
    "load_echo",
    "load_fake",
    "load_hanging",
    "load_slow",
]


@dataclass(frozen=True, slots=True)
class FakeSettings(FaultSettings):
    """What a fake model that writes can be told, besides its faults. Plain JSON."""

    context_length: int = 512
    n_cells: int = 4096
    n_seq_max: int = 8
    n_batch: int = 64
    parallel: int = 4
    layout: KvLayout = "unified"
    can_truncate: bool = True
    can_copy: bool = True
    copy_cost_tokens: int = 0
    n_outputs_max: int = 256
    step_seconds: float = 0.2
    can_score: bool = True
    can_constrain: bool = True  # constraints are taken, and change nothing
    end_one_in: int = 0  # one in so many tokens ends the answer; 0: it goes on to its limit
    saved_ram_bytes: int = 0  # for states of conversations that left the cache, 8 bytes a token
    saved_disk_bytes: int = 0
    text: str | None = None  # what an echo answers in place of the prompt

    def capabilities(self) -> Capabilities:
        """Return the memory that these settings describe."""
        names = {field.name for field in fields(Capabilities)}
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name in names}
        if self.saved_ram_bytes or self.saved_disk_bytes:
            values["saving"] = StateSaving(self.saved_ram_bytes, 8, disk_bytes=self.saved_disk_bytes, identity="fake")
        return Capabilities(**values)


@dataclass(frozen=True, slots=True)
class FakeModel:
    """A loaded model without a model."""

    info: ModelInfo
    decoder: Decoder
    tokenizer: Tokenizer
    renderer: PromptRenderer | None
    constraints: ConstraintCompiler | None = None

    def close(self) -> None:
        """Nothing to free."""


def load_fake(request: LoadRequest) -> FakeModel:
    """Load a model that writes what a hash of all tokens says."""
    settings = _prepare(request, {})
    return _model(settings, FakeDecoder(settings.capabilities(), end_one_in=settings.end_one_in))


def load_echo(request: LoadRequest) -> FakeModel:
    """Load a model that answers with its prompt, or with the setting ``text``."""
    settings = _prepare(request, {})
    answer = None if settings.text is None else tuple(settings.text.encode())
    return _model(settings, EchoDecoder(settings.capabilities(), answer=answer))


def load_slow(request: LoadRequest) -> FakeModel:
    """Load a fake that takes 20 ms for a step."""
    return _load_faulty(request, {"step_delay_seconds": 0.02})


def load_crashing(request: LoadRequest) -> FakeModel:
    """Load a fake that dies by SIGSEGV in its fourth step."""
    return _load_faulty(request, {"crash_after_steps": 3})


def load_hanging(request: LoadRequest) -> FakeModel:
    """Load a fake that never returns from its fourth step."""
    return _load_faulty(request, {"hang_after_steps": 3})


def _load_faulty(request: LoadRequest, defaults: Mapping[str, Any]) -> FakeModel:
    settings = _prepare(request, defaults)
    return _model(settings, FakeDecoder(settings.capabilities(), end_one_in=settings.end_one_in))


def _prepare(request: LoadRequest, defaults: Mapping[str, Any]) -> FakeSettings:
    """Read the settings, and meet the end that they have in store for loading."""
    settings = FakeSettings.read(request.settings, defaults)
    settings.meet_load_faults(request)
    return settings


def _model(settings: FakeSettings, decoder: Decoder) -> FakeModel:
    """Put the faults that are asked for around a decoder."""
    for after_steps, call in settings.step_faults():
        decoder = CrashingDecoder(decoder, after_steps, call)
    info = ModelInfo(
        settings.context_length, N_VOCAB, description="fake", has_chat_template=True, parallel=settings.parallel
    )
    constraints = FakeConstraints() if settings.can_constrain else None
    return FakeModel(info, decoder, ByteTokenizer(), PlainRenderer(), constraints)
