"""What stands before the answers to one prompt: its text and log-probabilities, as far as they were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from localllm.contract.generation import PromptToken, TextPrompt, TokenPrompt
from localllm.openai.logprobs import legacy_logprobs
from localllm.openai.text_offset import GivenText, TextOfTokens

LegacyLogprobs = dict[str, list[Any]]


class EchoPart(NamedTuple):
    """A piece of an echoed prompt. ``logprobs`` is None where they were not asked for."""

    text: str
    logprobs: LegacyLogprobs | None


class Echo:
    """The echo of one prompt, which grows while its tokens' log-probabilities come in.

    Text comes back exactly as it was sent; token ids come back as the text of their tokens. ``n_top`` is the request's
    ``logprobs``, None for none.
    """

    def __init__(self, prompt: TextPrompt | TokenPrompt, n_top: int | None) -> None:
        self.logprobs = None if n_top is None else legacy_logprobs([], [], n_top=n_top)
        self._n_top = n_top
        self._source = GivenText(prompt.text) if isinstance(prompt, TextPrompt) else TextOfTokens()
        self._parts: list[str] = []
        # Without logprobs there is nothing to wait for.
        self.opening = self._source.finish() if n_top is None and isinstance(prompt, TextPrompt) else ""
        self._rest: str | None = None

    def take(self, tokens: Sequence[PromptToken]) -> EchoPart:
        """Go on with some tokens; return what that adds."""
        placed = [self._source.feed(token.bytes) for token in tokens]
        text = "".join(text for _, text in placed)
        self._parts.append(text)
        if self.logprobs is None or self._n_top is None:
            return EchoPart(text, None)
        added = legacy_logprobs(tokens, [offset for offset, _ in placed], n_top=self._n_top)
        for name, values in added.items():
            self.logprobs[name].extend(values)
        return EchoPart(text, added)

    @property
    def rest(self) -> str:
        """What no token brought, to be given out when all have come: usually nothing. More tokens must not follow."""
        if self._rest is None:
            self._rest = self._source.finish()
        return self._rest

    @property
    def text(self) -> str:
        """The whole echo, ``rest`` included."""
        return "".join((self.opening, *self._parts, self.rest))
