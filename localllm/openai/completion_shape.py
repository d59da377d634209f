"""The response and the chunks of ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localllm.contract.generation import (
    CallDelta,
    ChoiceFinished,
    Chunk,
    FinishReason,
    InfillPrompt,
    PromptLogprobs,
    TokenLogprob,
)
from localllm.openai.answers import Answer
from localllm.openai.completions import CompletionRequest
from localllm.openai.echo import Echo, LegacyLogprobs
from localllm.openai.logprobs import legacy_logprobs, prompt_entry
from localllm.openai.reply import Reply
from localllm.openai.text_offset import TextOfTokens


class CompletionShape:
    """Words answers as plain text. Choice ``prompt_index * n + k`` is the k-th answer to a prompt."""

    def __init__(self, reply: Reply, request: CompletionRequest) -> None:
        prompts = request.prompts()
        self._reply = reply
        self._n = request.n
        self._n_top = request.logprobs
        self._n_prompt_top = request.prompt_logprobs
        self._echoes = [
            Echo(prompt, request.logprobs) if request.echo and not isinstance(prompt, InfillPrompt) else None
            for prompt in prompts
        ]
        self._prompt_logprobs: list[list[dict[str, Any] | None]] = [[] for _ in prompts]
        self._written: dict[int, TextOfTokens] = {}  # of choices that have begun

    def whole(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the body of a response without ``usage``."""
        return self.chunk(choices)

    def prompt(self, event: PromptLogprobs) -> list[dict[str, Any]]:
        """Take in some of a prompt's tokens; return the choices of a stream that echo them."""
        if self._n_prompt_top is not None:
            n_top = self._n_prompt_top
            self._prompt_logprobs[event.prompt].extend(prompt_entry(token, n_top=n_top) for token in event.tokens)
        echo = self._echoes[event.prompt]
        if echo is None:
            return []
        part = echo.take(event.tokens)
        if not part.text and part.logprobs is None:
            return []
        first = event.prompt * self._n
        return [_choice(index, part.text, None, part.logprobs) for index in range(first, first + self._n)]

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """Return one complete choice."""
        echo = self._echo(index)
        text = "".join(answer.text)
        if echo is not None:
            text = echo.text + text
        logprobs = self._logprobs(index, answer.logprobs)
        if logprobs is not None and echo is not None and echo.logprobs is not None:
            ending = self._ending(index, ended_by_model=answer.ended_by_model) or {}
            logprobs = {
                name: [*before, *logprobs[name], *ending.get(name, ())] for name, before in echo.logprobs.items()
            }
        choice = _choice(index, text, answer.reason, logprobs)
        if self._n_prompt_top is not None:
            choice["prompt_logprobs"] = self._prompt_logprobs[index // self._n]
        return choice

    def opening(self, index: int) -> dict[str, Any] | None:
        """Return the echoed prompt, if there is one that is known by now."""
        echo = self._echo(index)
        return None if echo is None or not echo.opening else _choice(index, echo.opening, None)

    def delta(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Return a choice with a piece of text."""
        rest = self._begin(chunk.choice)
        logprobs = self._logprobs(chunk.choice, chunk.logprobs) if chunk.logprobs else None
        return [_choice(chunk.choice, rest + chunk.text, None, logprobs)]

    def call(self, delta: CallDelta) -> list[dict[str, Any]]:
        """Return nothing: where no function is offered, what looks like a call is text."""
        return []

    def finish(self, event: ChoiceFinished) -> list[dict[str, Any]]:
        """Return the choice that only says why the answer ended."""
        rest = self._begin(event.choice)
        ending = self._ending(event.choice, ended_by_model=event.reason == "stop" and event.stop is None)
        return [_choice(event.choice, rest, event.reason, ending)]

    def chunk(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return one chunk of a stream, which has the same form as a whole response."""
        return self._reply.envelope("text_completion") | {"choices": list(choices)}

    def _echo(self, index: int) -> Echo | None:
        return self._echoes[index // self._n]

    def _begin(self, index: int) -> str:
        """Return what is still to be said of the prompt; a choice's first piece of text says it."""
        if index in self._written:
            return ""
        echo = self._echo(index)
        self._written[index] = TextOfTokens(0 if echo is None else len(echo.text))
        return "" if echo is None else echo.rest

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> LegacyLogprobs | None:
        if self._n_top is None:
            return None
        self._begin(index)
        written = self._written[index]
        return legacy_logprobs(tokens, [written.feed(token.bytes)[0] for token in tokens], n_top=self._n_top)

    def _ending(self, index: int, *, ended_by_model: bool) -> LegacyLogprobs | None:
        """Return an entry for the token that ended the answer, where the echo makes it count.

        An evaluation harness asks for one token more than it scores, because other servers can't write none, and drops
        the last entry. It must not be one of the prompt's, also where the model had nothing to add.
        """
        echo = self._echo(index)
        if not ended_by_model or echo is None or echo.logprobs is None:
            return None
        self._begin(index)
        offset, _ = self._written[index].feed(b"")
        return {"tokens": [""], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [offset]}


def _choice(
    index: int, text: str, reason: FinishReason | None, logprobs: LegacyLogprobs | None = None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
