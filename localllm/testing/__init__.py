"""The test kit for plugin authors, and for this project: fake decoders, a decoder contract, tiny models, stores."""

from __future__ import annotations

from localllm.testing.sessions import MemoryStore, StoreLimits

__all__ = ["MemoryStore", "StoreLimits"]
