"""The closed set of messages between the server process and one worker process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from localllm.contract.backend import LoadRequest
from localllm.contract.generation import (
    CallDelta,
    ChoiceFinished,
    Chunk,
    Failed,
    Finished,
    GenerateRequest,
    PromptLogprobs,
    Started,
)
from localllm.contract.model import ModelInfo
from localllm.contract.pooling import Pooled, PoolFinished, PoolRequest, PoolStarted
from localllm.contract.texts import DetokenizeRequest, RenderRequest, TextResult, TokenizeRequest

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""A longer frame is a protocol error on either side. Prompts are bounded far below by the body limit."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Server to worker, first: import ``factory`` and load the model."""

    factory: str
    load: LoadRequest


@dataclass(frozen=True, slots=True)
class Submit:
    """Server to worker: one request, of the kind that the model was loaded for (texts: to generate).

    Ids are chosen by the server and never used twice.
    """

    request_id: str
    request: GenerateRequest | PoolRequest | TokenizeRequest | DetokenizeRequest | RenderRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    """Server to worker: forget a request, in whatever state it is. Idempotent; unknown ids are ignored."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Server to worker: nothing more will come; leave now."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker to server: the model is loaded and passed its self-test."""

    info: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """Worker to server: the factory raised; the worker exits."""

    error: Mapping[str, object]  # LocalLLMError.to_wire()


WorkerEvent = (
    Started
    | PromptLogprobs
    | Chunk
    | CallDelta
    | ChoiceFinished
    | Finished
    | PoolStarted
    | Pooled
    | PoolFinished
    | TextResult
    | Failed
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Worker to server: what one engine step brought, for all requests, in order."""

    events: tuple[tuple[str, WorkerEvent], ...]  # (request id, event)
    prefilled_tokens: int = 0  # prompt tokens evaluated since the last frame; counted, for tests and metrics


ToWorker = Hello | Submit | Cancel | Shutdown
FromWorker = Ready | LoadFailed | Batch
