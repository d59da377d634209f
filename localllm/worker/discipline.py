"""The two ways in which a worker serves: what prepares requests for a loaded model, runs them and tests it first."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from localllm.contract.backend import LoadedModel, LoadedPooler
from localllm.contract.errors import LocalLLMError, ModelLoadError
from localllm.contract.generation import ChatPrompt
from localllm.contract.model import Mode, ModelInfo
from localllm.contract.pooling import PoolingInfo
from localllm.contract.texts import DetokenizeRequest, RenderRequest, TextResult, TokenizeRequest
from localllm.contract.wire import Submit
from localllm.engine.pool_loop import PoolLoop, PreparedPool
from localllm.engine.step_loop import PreparedRequest, StepLoop, StepResult
from localllm.worker.inbox import Prepared
from localllm.worker.intake import prepare
from localllm.worker.pool_intake import prepare_pool
from localllm.worker.pool_self_test import run_pool_self_test
from localllm.worker.preload import preload_tokens
from localllm.worker.self_test import run_self_test
from localllm.worker.state_files import FOLDER, FolderStateFiles
from localllm.worker.texts import answer_text

_FRAME_SECONDS = 0.012
"""Nobody sees text come in more than 80 times a second, and a wake-up of the server and of its clients costs the same
for one token as for several: small models on a busy processor write up to 3 % more, and many fast streams load the
server less."""

PreparedT = TypeVar("PreparedT", bound=Prepared)
ContraT = TypeVar("ContraT", bound=Prepared, contravariant=True)


class EngineLoop(Protocol[ContraT]):
    """Many requests, step by step. Used by the step thread only."""

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has something to do."""
        ...

    def submit(self, request: ContraT) -> None:
        """Queue a request. Raises ``LocalLLMError``; the request is not queued then."""
        ...

    def cancel(self, request_id: str) -> None:
        """Forget a request in whatever state it is; no event of it comes out after this. Unknown ids are ignored."""
        ...

    def step(self) -> StepResult:
        """Go one step on and return what it brought. What the engine raises comes out and ends the worker."""
        ...


class Discipline(Protocol[PreparedT]):
    """One loaded model and how it is served."""

    @property
    def info(self) -> ModelInfo:
        """Facts for the host."""
        ...

    @property
    def loop(self) -> EngineLoop[PreparedT]:
        """Runs its requests."""
        ...

    @property
    def frame_seconds(self) -> float:
        """How long after one frame to the server the next begins, where steps are shorter."""
        ...

    def self_test(self, model_id: str) -> None:
        """Run the engine once, before the first request (step thread). Raises ``LocalLLMError``."""
        ...

    def preload(self, beginnings: Sequence[ChatPrompt]) -> None:
        """Have the first steps evaluate what conversations begin with (step thread).

        What can't be is left out, and ``info.notes`` says why.
        """
        ...

    def prepare(self, submit: Submit, queued_at: float) -> Iterator[PreparedT | TextResult | None]:
        """Yield the request with its inputs as tokens, after a None for each pause to let others in (intake thread).

        A request that needs no step of the engine is answered at once: that is yielded in its place.

        Raises ``LocalLLMError`` for what is wrong with the request, and whatever the model's own code raises.
        """
        ...

    def leave(self, is_late: Callable[[], bool]) -> None:
        """Give up all requests, and put down what the next worker can use, until it is late (step thread)."""
        ...

    def close(self) -> None:
        """Free the model; called once, after the last step."""
        ...


class Generation:
    """Serves a model that writes text. ``state_dir`` is where its conversations outlive this process."""

    def __init__(self, model: LoadedModel, clock: Callable[[], float], state_dir: str | None = None) -> None:
        self.info = model.info
        self.frame_seconds = _FRAME_SECONDS
        self.loop = StepLoop(model.decoder, model.tokenizer, clock, _state_files(model, state_dir))
        self.leave = self.loop.leave
        self.close = model.close
        self._model = model

    def self_test(self, model_id: str) -> None:
        """Write two tokens."""
        run_self_test(self._model, model_id)

    def preload(self, beginnings: Sequence[ChatPrompt]) -> None:
        """Render each, and queue it before any request: those that begin with it wait for it then."""
        notes = [self._preload(index, prompt) for index, prompt in enumerate(beginnings)]
        self.info = replace(self.info, notes=(*self.info.notes, *filter(None, notes)))

    def _preload(self, index: int, prompt: ChatPrompt) -> str | None:
        try:
            tokens = preload_tokens(prompt, self._model)
            self.loop.preload(f"preload[{index}]", tokens)
        except LocalLLMError as error:
            return f"preload[{index}] is left out: {error.message}"
        except Exception as error:  # noqa: BLE001 - templates are foreign code: their faults cost this one only
            traceback.print_exc()
            return f"preload[{index}] is left out: its template raised {type(error).__name__}: {error}"
        return None

    def prepare(self, submit: Submit, queued_at: float) -> Iterator[PreparedRequest | TextResult | None]:
        """Render and tokenise the prompt in one go."""
        request = submit.request
        if isinstance(request, TokenizeRequest | DetokenizeRequest | RenderRequest):
            yield answer_text(request, self._model)
        else:
            yield prepare(submit, self._model, queued_at=queued_at)


class Pooling:
    """Serves a model that pools texts into vectors or scores."""

    def __init__(self, model: LoadedPooler, pooling: PoolingInfo, clock: Callable[[], float]) -> None:
        self.info = model.info
        self.frame_seconds = 0.0
        self.loop = PoolLoop(model.pooler, pooling.dimensions, clock)
        self.close = model.close
        self._model = model
        self._pooling = pooling

    def self_test(self, model_id: str) -> None:
        """Pool two texts."""
        run_pool_self_test(self._model, self._pooling, model_id)

    def preload(self, beginnings: Sequence[ChatPrompt]) -> None:
        """Do nothing: texts that are pooled have no beginning in common, and the server sends none."""

    def leave(self, is_late: Callable[[], bool]) -> None:
        """Do nothing: what is pooled leaves nothing behind."""

    def prepare(self, submit: Submit, queued_at: float) -> Iterator[PreparedPool | None]:
        """Tokenise the inputs, some at a time."""
        return prepare_pool(submit, self._model, self._pooling, queued_at=queued_at)


def _state_files(model: LoadedModel, state_dir: str | None) -> FolderStateFiles | None:
    saving = model.decoder.capabilities.saving
    if saving is None or not saving.disk_bytes or state_dir is None:
        return None
    return FolderStateFiles(Path(state_dir) / FOLDER, saving)


def discipline_of(
    model: LoadedModel | LoadedPooler,
    mode: Mode,
    model_id: str,
    clock: Callable[[], float],
    state_dir: str | None = None,
) -> Discipline[Any]:
    """Return how a model that was loaded in ``mode`` is served. Raises ``ModelLoadError`` where it can't be."""
    needed = "pooler" if mode is Mode.POOL else "decoder"
    if not hasattr(model, needed):
        message = (
            f"The engine of model {model_id!r} was to load it to {mode.value}, but what it returned has no {needed}."
        )
        raise ModelLoadError(message)
    if mode is Mode.GENERATE:
        return Generation(cast(LoadedModel, model), clock, state_dir)
    if model.info.pooling is None:
        message = f"The engine of model {model_id!r} loaded it to pool, but does not say how it pools (info.pooling)."
        raise ModelLoadError(message)
    return Pooling(cast(LoadedPooler, model), model.info.pooling, clock)
