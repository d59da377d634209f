"""The response and the chunks of ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localllm.contract.generation import Chunk, FinishReason
from localllm.openai.answers import Answer
from localllm.openai.logprobs import legacy_logprobs
from localllm.openai.reply import Reply


class CompletionShape:
    """Words answers as plain text. Choice ``prompt_index * n + k`` is the k-th answer to a prompt.

    ``echoed`` holds, for each prompt, the text that stands before its answers ("" for none).
    """

    def __init__(self, reply: Reply, echoed: Sequence[str], *, n: int, logprobs: bool = False) -> None:
        self._reply = reply
        self._echoed = tuple(text for text in echoed for _ in range(n))
        self._logprobs = logprobs
        self._offsets = [len(text) for text in self._echoed]  # where the next token of each choice begins

    def whole(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the body of a response without ``usage``."""
        return self.chunk(choices)

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """Return one complete choice."""
        echoed = self._echoed[index]
        choice = _choice(index, echoed + "".join(answer.text), answer.reason)
        if self._logprobs:
            choice["logprobs"] = legacy_logprobs(answer.logprobs, len(echoed))
        return choice

    def opening(self, index: int) -> dict[str, Any] | None:
        """Return the echoed prompt, if there is one."""
        return _choice(index, self._echoed[index], None) if self._echoed[index] else None

    def delta(self, chunk: Chunk) -> dict[str, Any]:
        """Return a choice with a piece of text."""
        choice = _choice(chunk.choice, chunk.text, None)
        if chunk.logprobs:
            choice["logprobs"] = legacy_logprobs(chunk.logprobs, self._offsets[chunk.choice])
            self._offsets[chunk.choice] += sum(len(token.text) for token in chunk.logprobs)
        return choice

    def finish(self, index: int, reason: FinishReason) -> dict[str, Any]:
        """Return the choice that only says why the answer ended."""
        return _choice(index, "", reason)

    def chunk(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return one chunk of a stream, which has the same form as a whole response."""
        return self._reply.envelope("text_completion") | {"choices": list(choices)}


def _choice(index: int, text: str, reason: FinishReason | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
