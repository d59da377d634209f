"""The response and the chunks of ``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from localllm.contract.generation import Chunk, FinishReason
from localllm.openai.answers import Answer
from localllm.openai.logprobs import chat_logprobs
from localllm.openai.reply import Reply


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Words answers as chat messages. ``logprobs`` says whether they were asked for."""

    reply: Reply
    logprobs: bool = False

    def whole(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the body of a response without ``usage``."""
        return self.reply.envelope("chat.completion") | {"choices": list(choices)}

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """Return one complete choice."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": "".join(answer.text), "refusal": None},
            "logprobs": chat_logprobs(answer.logprobs) if self.logprobs else None,
            "finish_reason": answer.reason,
        }

    def opening(self, index: int) -> dict[str, Any]:
        """Return the first choice of a stream, which names the role."""
        return _delta(index, {"role": "assistant", "content": ""})

    def delta(self, chunk: Chunk) -> dict[str, Any]:
        """Return a choice with a piece of text."""
        choice = _delta(chunk.choice, {"content": chunk.text})
        if chunk.logprobs:
            choice["logprobs"] = chat_logprobs(chunk.logprobs)
        return choice

    def finish(self, index: int, reason: FinishReason) -> dict[str, Any]:
        """Return the choice that only says why the answer ended."""
        return _delta(index, {}) | {"finish_reason": reason}

    def chunk(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return one chunk of a stream."""
        return self.reply.envelope("chat.completion.chunk") | {"choices": list(choices)}


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
