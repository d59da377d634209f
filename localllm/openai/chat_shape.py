"""The response and the chunks of ``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from localllm.contract.generation import ChoiceFinished, Chunk, PromptLogprobs
from localllm.openai.answers import Answer
from localllm.openai.logprobs import chat_logprobs, prompt_entry
from localllm.openai.reply import Reply


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Words answers as chat messages. ``logprobs`` says whether they were asked for, ``prompt_logprobs`` how many."""

    reply: Reply
    logprobs: bool = False
    prompt_logprobs: int | None = None
    _prompt: list[dict[str, Any] | None] = field(default_factory=list)

    def whole(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the body of a response without ``usage``."""
        body = self.reply.envelope("chat.completion") | {"choices": list(choices)}
        return body if self.prompt_logprobs is None else body | {"prompt_logprobs": self._prompt}

    def prompt(self, event: PromptLogprobs) -> list[dict[str, Any]]:
        """Take in some of the prompt's tokens, which only a whole response shows."""
        if self.prompt_logprobs is not None:
            self._prompt.extend(prompt_entry(token, n_top=self.prompt_logprobs) for token in event.tokens)
        return []

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

    def finish(self, event: ChoiceFinished) -> dict[str, Any]:
        """Return the choice that only says why the answer ended."""
        return _delta(event.choice, {}) | {"finish_reason": event.reason}

    def chunk(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return one chunk of a stream."""
        return self.reply.envelope("chat.completion.chunk") | {"choices": list(choices)}


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
