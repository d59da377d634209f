"""A fake model whose chat template takes as long as the test likes: it opens the named pipe ``gate`` for reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from localllm.contract.backend import LoadRequest
from localllm.testing.decoders import FakeModel, load_slow


class GatedRenderer:
    def render(self, messages: Sequence[Mapping[str, object]], template_kwargs: Mapping[str, object]) -> str:
        return Path(str(template_kwargs["gate"])).read_text()


def load(request: LoadRequest) -> FakeModel:
    model = load_slow(request)
    return FakeModel(model.info, model.decoder, model.tokenizer, GatedRenderer())
