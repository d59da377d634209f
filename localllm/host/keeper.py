"""Keeps as many instances of each model loaded as are always to be there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from localllm.contract.errors import LocalLLMError
from localllm.host.group import FAILURE_RETRY_SECONDS, ModelGroup

_logger = logging.getLogger("localllm.host")


class Keeper:
    """Loads what is missing, one instance after the other, and lets go what is too much. Used on one event loop.

    ``groups`` returns the models to look at, each as it is configured now. It does nothing before :meth:`begin`: what
    is to be loaded at the start comes first. ``clock`` is monotonic, in seconds.
    """

    def __init__(self, groups: Callable[[], Iterable[ModelGroup]], clock: Callable[[], float]) -> None:
        self._groups = groups
        self._clock = clock
        self._begun = False
        self._round: asyncio.Task[None] | None = None
        self._retry_at: dict[object, float] = {}

    async def begin(self) -> None:
        """Load what is missing, and see to it from now on. What can't be loaded is in the log and tried again later."""
        self._begun = True
        self.look()
        if self._round is not None:
            await asyncio.wait({self._round})

    def look(self) -> None:
        """See whether anything is missing, in the background; unless that is being done already."""
        if self._begun and (self._round is None or self._round.done()):
            self._round = asyncio.create_task(self._see_to_all(), name="keep instances")

    async def end(self) -> None:
        """Load nothing more."""
        self._begun = False
        if self._round is not None:
            self._round.cancel()
            await asyncio.wait({self._round})

    async def _see_to_all(self) -> None:
        for group in list(self._groups()):
            if self._retry_at.get(group.key, self._clock()) > self._clock():
                continue
            try:
                group.trim()
                while group.is_short or await group.renew_one():
                    await group.load_one_more()
            except LocalLLMError as error:
                seconds = error.detail.get("retry_after_seconds", FAILURE_RETRY_SECONDS)
                self._retry_at[group.key] = self._clock() + seconds
                _logger.warning("%s lacks an instance (min_instances): %s", group.key[0], error.message)
