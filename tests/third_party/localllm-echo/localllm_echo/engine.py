"""An engine whose model answers with its prompt: a token is a byte, and token 256 ends the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from localllm import (
    Capabilities,
    ChatPrompt,
    Constraint,
    LoadRequest,
    ModelInfo,
    Plan,
    RenderedPrompt,
    Sampled,
    SamplingParams,
    SequenceKey,
)

END = 256
BAN = -100.0


class ByteTokenizer:
    """UTF-8 bytes as tokens."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Return the bytes."""
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        """Return the byte; the end has none."""
        return bytes([token]) if token < END else b""

    def spelling(self, token: int) -> bytes:
        """Return the byte; the end is written as nothing."""
        return self.piece(token)

    @property
    def infill_tokens(self) -> None:
        """It fills no gaps."""
        return


class LastMessage:
    """Renders a conversation as its last message."""

    def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
        """Return the text that is to be repeated."""
        return RenderedPrompt(str(prompt.messages[-1]["content"]), constraint=constraint)


@dataclass
class EchoDecoder:
    """Draws the tokens of the prompt one after the other."""

    capabilities: Capabilities
    prompts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    asked_logprobs: dict[str, int | None] = field(default_factory=dict)
    written: dict[SequenceKey, int] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)

    def open(self, request_id: str, sampling: SamplingParams, prompt: Sequence[int]) -> None:
        """Remember what to repeat: the prompt without the tokens that the request bans."""
        banned = {token for token, bias in sampling.logit_bias if bias <= BAN}
        self.prompts[request_id] = tuple(token for token in prompt if token not in banned)
        self.asked_logprobs[request_id] = sampling.logprobs

    def submit(self, plan: Plan) -> None:
        """There is no memory to keep in order: only note what is wanted."""
        self.plan = plan

    def collect(self) -> Mapping[SequenceKey, Sequence[Sampled]]:
        """Return the next token of each answer."""
        return {key: [self.draw(key)] for part in self.plan.slices for key in part.sample}

    def draw(self, key: SequenceKey) -> Sampled:
        """Return the next token of one answer, then the end."""
        prompt, position = self.prompts[key.request_id], self.written.get(key, 0)
        self.written[key] = position + 1
        token = prompt[position] if position < len(prompt) else END
        asked = self.asked_logprobs[key.request_id]
        if asked is None:
            return Sampled(token, is_end=token == END)
        others = [(other, -inf) for other in range(END) if other != token]  # there was never any doubt
        return Sampled(token, token == END, logprob=0.0, top=((token, 0.0), *others)[:asked])

    def force(self, key: SequenceKey, tokens: Sequence[int]) -> None:
        """Go on as if these tokens had been repeated."""
        self.written[key] = self.written.get(key, 0) + len(tokens)

    def close(self, request_id: str) -> None:
        """Forget a request."""
        del self.prompts[request_id], self.asked_logprobs[request_id]
        self.written = {key: count for key, count in self.written.items() if key.request_id != request_id}


@dataclass(frozen=True, slots=True)
class EchoModel:
    """What the worker drives."""

    info: ModelInfo
    decoder: EchoDecoder
    tokenizer: ByteTokenizer = field(default_factory=ByteTokenizer)
    renderer: LastMessage = field(default_factory=LastMessage)
    constraints: None = None  # what it repeats follows no schema

    def close(self) -> None:
        """Nothing to free."""


def load(request: LoadRequest) -> EchoModel:
    """Make the model that its settings describe."""
    context_length = int(request.settings["context_length"])
    capabilities = Capabilities(context_length, n_cells=4 * context_length, n_seq_max=4, n_batch=256)
    info = ModelInfo(context_length, n_vocab=END + 1, description="echo", has_chat_template=True)
    return EchoModel(info, EchoDecoder(capabilities))
