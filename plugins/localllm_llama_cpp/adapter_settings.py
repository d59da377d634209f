"""The keys of one LoRA adapter, in the list ``lora`` of a model's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm import setting

MAX_ADAPTERS = 32


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """``{ path = "…", scale = 1.0, name = "…" }``: an adapter that is loaded with the model."""

    path: Path | None = setting(None, "The adapter's GGUF file.")
    scale: float = setting(1.0, "How strongly it counts; 0: only in requests that ask for it.")
    name: str = setting("", "What requests call it. Empty: its file's name without the ending.")

    def __post_init__(self) -> None:
        """Check that there is a file. Raises ``ValueError``."""
        if self.path is None:
            message = "path is missing; name the adapter's GGUF file"
            raise ValueError(message)

    @property
    def file(self) -> Path:
        """Where it lies."""
        assert self.path is not None, "checked at the beginning"
        return self.path

    @property
    def label(self) -> str:
        """What requests call it."""
        return self.name or self.file.stem


def check_adapters(adapters: Sequence[AdapterSettings]) -> None:
    """Raise ``ValueError`` for too many adapters, and for two of one name."""
    if len(adapters) > MAX_ADAPTERS:
        message = f"lora lists {len(adapters)} adapters; at most {MAX_ADAPTERS} can be loaded with a model"
        raise ValueError(message)
    labels = [adapter.label for adapter in adapters]
    twice = next((label for index, label in enumerate(labels) if label in labels[:index]), None)
    if twice is not None:
        message = f"lora has two adapters named {twice!r}; give each a name of its own"
        raise ValueError(message)
