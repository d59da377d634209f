"""A fake model whose chat template takes as long as the test likes: it opens the named pipe ``gate`` for reading."""

from __future__ import annotations

from pathlib import Path

from localllm.contract.backend import LoadRequest
from localllm.contract.chat_format import RenderedPrompt
from localllm.contract.generation import ChatPrompt, Constraint
from localllm.testing.decoders import FakeModel, load_slow


class GatedRenderer:
    def render(self, prompt: ChatPrompt, constraint: Constraint | None = None) -> RenderedPrompt:
        return RenderedPrompt(Path(str(prompt.template_kwargs["gate"])).read_text())


def load(request: LoadRequest) -> FakeModel:
    model = load_slow(request)
    return FakeModel(model.info, model.decoder, model.tokenizer, GatedRenderer())
