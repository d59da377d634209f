"""The models that the configuration gives a source and that are not there: fetches them, and knows which failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from localllm.contract.errors import LocalLLMError
from localllm.contract.fetch import PullError
from localllm.contract.model import USUAL_MODES, Mode, ModelDefinition, ModelKind
from localllm.models.fetched import find_definition
from localllm.models.pulls import Pull, Pulls

RETRY_SECONDS = 60.0
"""A try that began longer ago, and failed, is made again for the next request; others are only told of it."""

_logger = logging.getLogger("localllm.models")


@dataclass(slots=True)
class _Attempt:
    """The last try to fetch one model; ``error`` when it could not even begin."""

    source: str
    began: float
    pull: Pull | None = None
    error: LocalLLMError | None = None

    @property
    def is_under_way(self) -> bool:
        return self.pull is not None and not self.pull.progress.status.is_final

    @property
    def failure(self) -> LocalLLMError | None:
        return self.error or (self.pull.error if self.pull is not None else None)


class DefinedModels:
    """One pull in the background for each definition that waits for its file. Event loop only; ``clock`` in seconds."""

    def __init__(self, pulls: Pulls, clock: Callable[[], float] = time.monotonic) -> None:
        self._pulls = pulls
        self._clock = clock
        self._definitions: Mapping[str, ModelDefinition] = {}
        self._defaults: Mapping[ModelKind, str | None] = {}
        self._attempts: dict[str, _Attempt] = {}

    def fetch(self, arriving: Mapping[str, ModelDefinition], defaults: Mapping[ModelKind, str | None]) -> None:
        """Fetch these from now on, and let go of what is no longer among them. What has failed, or came
        and went, is tried again.

        ``defaults`` are the names that are configured for requests without one. Never raises for a bad source.
        """
        for model_id, attempt in list(self._attempts.items()):
            if model_id not in arriving or arriving[model_id].source != attempt.source:
                del self._attempts[model_id]
                self._let_go(attempt)
        self._definitions, self._defaults = arriving, defaults
        for definition in arriving.values():
            last = self._attempts.get(definition.id)
            if last is None or not last.is_under_way:
                self._begin(definition)

    def find(self, name: str | None, mode: Mode, purpose: ModelKind | None = None) -> ModelDefinition | None:
        """Return the definition that a request means, the default one where it names none."""
        if name is not None:
            return find_definition(name, self._definitions)
        kind = purpose or (ModelKind.CHAT if mode is Mode.GENERATE else ModelKind.EMBEDDING)
        wanted = self._defaults.get(kind)
        if wanted is not None:
            return find_definition(wanted, self._definitions)
        fitting = (one for one in self._definitions.values() if (one.kind or ModelKind.CHAT) is kind)
        return next((one for one in fitting if mode is USUAL_MODES[kind]), None)

    def on_their_way(self) -> list[tuple[ModelDefinition, Pull | None, PullError | None]]:
        """Return the definitions whose file is being fetched, or could not be: with the pull, or with the reason."""
        found: list[tuple[ModelDefinition, Pull | None, PullError | None]] = []
        for definition in self._definitions.values():
            attempt = self._attempts[definition.id]
            if attempt.failure is not None:
                found.append((definition, None, self.failure(definition, attempt.failure)))
            elif attempt.is_under_way:
                found.append((definition, attempt.pull, None))
        return found

    def pull_of(self, definition: ModelDefinition) -> Pull | None:
        """Return the pull that fetches a model that is not there; None when it came and is gone again.

        Raises ``PullError`` for one that failed, unless it is long enough ago to try again.
        """
        attempt = self._attempts[definition.id]
        if attempt.failure is not None and self._clock() - attempt.began >= RETRY_SECONDS:
            attempt = self._begin(definition)
        if attempt.failure is not None:
            raise self.failure(definition, attempt.failure)
        return attempt.pull if attempt.is_under_way else None

    def failure(self, definition: ModelDefinition, reason: LocalLLMError) -> PullError:
        """Return why requests can't have the model. It is not their fault, whatever the reason's type says."""
        source = definition.source or ""
        message = f"Model {definition.id!r} could not be fetched from {source[:200]}: {reason.message}"
        return PullError(message, detail={"source": source[:200], "reason": reason.code})

    def _begin(self, definition: ModelDefinition) -> _Attempt:
        source = definition.source or ""
        attempt = self._attempts[definition.id] = _Attempt(source, self._clock())
        names = (definition.id, *definition.aliases)
        running = self._pulls.fetching(source)
        if running is not None:  # a client's, under whatever id: the catalogue will find the file by its source
            running.background = True
            running.names.update(names)
            attempt.pull = running
            return attempt
        try:
            attempt.pull = self._pulls.start(
                source, kind=definition.kind, model_id=definition.id, background=True, names=names, trusted=True
            )
        except LocalLLMError as error:
            _logger.warning("model %s can't be fetched from %s: %s", definition.id, source[:200], error.message)
            attempt.error = error
        return attempt

    def _let_go(self, attempt: _Attempt) -> None:
        """End a pull that the configuration no longer asks for, unless somebody waits for it."""
        if attempt.pull is not None:
            attempt.pull.background = False
            if not attempt.pull.watchers:
                attempt.pull.on_alone()
