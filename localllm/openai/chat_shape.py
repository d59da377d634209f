"""The response and the chunks of ``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from localllm.contract.generation import CallDelta, ChoiceFinished, Chunk, FinishReason, PromptLogprobs
from localllm.openai.answers import Answer, Call, new_call_id
from localllm.openai.logprobs import chat_logprobs, prompt_entry
from localllm.openai.reply import Reply
from localllm.openai.tools import CallForm

ReasoningField = Literal["reasoning_content", "reasoning", "both"]
"""Under which name answers have what the model thought: clients differ in the one that they look for."""

_NAMES: Final[dict[ReasoningField | None, tuple[str, ...]]] = {
    "reasoning_content": ("reasoning_content",),
    "reasoning": ("reasoning",),
    "both": ("reasoning_content", "reasoning"),
    None: (),
}


@dataclass(frozen=True, slots=True)
class ChatShape:
    """Words answers as chat messages. ``logprobs`` says whether they were asked for, ``prompt_logprobs`` how many.

    ``calls`` is the form in which the request offers functions, ``reasoning`` the name of thoughts; with None they are
    not shown.
    """

    reply: Reply
    logprobs: bool = False
    prompt_logprobs: int | None = None
    calls: CallForm = "none"
    reasoning: ReasoningField | None = "reasoning_content"
    _prompt: list[dict[str, Any] | None] = field(default_factory=list)
    _bare_calls: dict[int, int] = field(default_factory=dict)  # by choice, the open call that has no arguments so far

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
        """Return one complete choice. Beside calls, content is null where there is none."""
        text = "".join(answer.text)
        message = {"role": "assistant", "content": None if answer.calls and not text else text, "refusal": None}
        return {
            "index": index,
            "message": message | self._thought("".join(answer.reasoning)) | self._made(answer),
            "logprobs": chat_logprobs(answer.logprobs) if self.logprobs else None,
            "finish_reason": self._reason(answer.reason),
        }

    def opening(self, index: int) -> dict[str, Any]:
        """Return the first choice of a stream, which names the role; content is null where it may stay so."""
        return _delta(index, {"role": "assistant", "content": "" if self.calls == "none" else None})

    def delta(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Return a choice with a piece of text, or of a thought."""
        if chunk.region == "reasoning":
            thought = self._thought(chunk.text)
            return [_delta(chunk.choice, thought)] if thought else []
        choice = _delta(chunk.choice, {"content": chunk.text})
        if chunk.logprobs:
            choice["logprobs"] = chat_logprobs(chunk.logprobs)
        return [choice]

    def call(self, delta: CallDelta) -> list[dict[str, Any]]:
        """Return the choices with a piece of a call: what it is called once, then arguments only."""
        fragments: list[dict[str, Any]] = []
        if delta.name is not None:
            fragments += self._without_arguments(delta.choice)
            fragments += self._opened(delta.index, delta.name, delta.id)
            self._bare_calls[delta.choice] = delta.index
        if delta.arguments:
            self._bare_calls.pop(delta.choice, None)
            fragments += self._fragment(delta.index, delta.arguments)
        return [_delta(delta.choice, fragment) for fragment in fragments]

    def finish(self, event: ChoiceFinished) -> list[dict[str, Any]]:
        """Return the choice that only says why the answer ended, behind the arguments of a last call without any."""
        rest = [] if event.reason == "length" else self._without_arguments(event.choice)
        end = _delta(event.choice, {}) | {"finish_reason": self._reason(event.reason)}
        return [*[_delta(event.choice, fragment) for fragment in rest], end]

    def chunk(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return one chunk of a stream."""
        return self.reply.envelope("chat.completion.chunk") | {"choices": list(choices)}

    def _thought(self, text: str) -> dict[str, str]:
        return dict.fromkeys(_NAMES[self.reasoning], text) if text else {}

    def _made(self, answer: Answer) -> dict[str, Any]:
        """Return a message's calls; of the older form there can be only one."""
        if not answer.calls:
            return {}
        functions = [_function(call, is_cut=answer.reason == "length") for call in answer.calls]
        if self.calls == "functions":
            return {"function_call": functions[0]}
        made = zip(answer.calls, functions, strict=True)
        return {"tool_calls": [{"id": call.id, "type": "function", "function": function} for call, function in made]}

    def _opened(self, index: int, name: str, identity: str) -> list[dict[str, Any]]:
        """Return the deltas that begin a call."""
        function = {"name": name, "arguments": ""}
        if self.calls == "functions":
            return [] if index else [{"function_call": function}]
        head = {"index": index, "id": identity or new_call_id(), "type": "function"}
        return [{"tool_calls": [head | {"function": function}]}]

    def _fragment(self, index: int, arguments: str) -> list[dict[str, Any]]:
        """Return the deltas that go on with a call's arguments."""
        function = {"arguments": arguments}
        if self.calls == "functions":
            return [] if index else [{"function_call": function}]
        return [{"tool_calls": [{"index": index, "function": function}]}]

    def _without_arguments(self, choice: int) -> list[dict[str, Any]]:
        """Return the delta that an ended call without arguments still lacks: clients parse them as JSON."""
        index = self._bare_calls.pop(choice, None)
        return [] if index is None else self._fragment(index, "{}")

    def _reason(self, reason: FinishReason | None) -> str | None:
        return "function_call" if reason == "tool_calls" and self.calls == "functions" else reason


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _function(call: Call, *, is_cut: bool) -> dict[str, str]:
    return {"name": call.name, "arguments": call.argument_text or ("" if is_cut else "{}")}
