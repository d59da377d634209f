"""Measures what a model takes while it is loaded: the library's own figures, and what the process grew beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from localllm import MemoryUse

from .log import Buffer

_STATUS = Path("/proc/self/status")
_CACHES = frozenset({"KV", "RS"})
_GRAPHS = frozenset({"compute", "output"})


class MemoryMeter:
    """Notes the process's own memory at the steps of loading; the buffers announce themselves.

    A buffer counts in full from the beginning, although some of its pages are touched later only. So what the process
    grows by is read before and after the library takes them, and not meanwhile. Linux only.
    """

    def __init__(self) -> None:
        self._before_file = anonymous_bytes()
        self._own: int | None = self._before_file
        self._mark = self._before_file

    def file_is_loaded(self, buffers: Sequence[Buffer]) -> None:
        """Count what loading brought beside the weights: the vocabulary, tables of tensors, adapters."""
        now = anonymous_bytes()
        if now is None or self._mark is None or self._own is None:
            return
        private = sum(one.n_bytes for one in buffers if one.purpose == "model" and _is_private_host(one.place))
        self._own += max(0, now - self._mark - private)
        self._mark = now

    def context_is_made(self) -> None:
        """Leave out what was touched of the context's buffers, which count in full."""
        self._mark = anonymous_bytes()

    def result(self, weights_bytes: int, buffers: Sequence[Buffer], later_bytes: int = 0) -> MemoryUse | None:
        """Return what everything takes. ``later_bytes`` will be taken after loading. None where nothing is known."""
        now = anonymous_bytes()
        if now is None or self._mark is None or self._own is None:
            return None
        own = self._own + max(0, now - self._mark)
        graphs = sum(one.n_bytes for one in buffers if one.purpose in _GRAPHS)
        caches = sum(one.n_bytes for one in buffers if one.purpose in _CACHES)
        adapters = sum(one.n_bytes for one in buffers if one.purpose == "LoRA" and not _is_host(one.place))
        return MemoryUse(weights_bytes, caches, graphs + own + adapters + later_bytes)


def anonymous_bytes() -> int | None:
    """Return the process's memory that no file stands for; None where the system doesn't tell."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)


def _is_private_host(place: str) -> bool:
    """Whether weights lie in memory of the process itself: neither mapped, nor on a GPU."""
    return _is_host(place) and not place.endswith("_Mapped")


def _is_host(place: str) -> bool:
    """Whether something does not lie on a GPU. Adapters beside a mapped file are announced as mapped, and are not."""
    return place.startswith(("CPU", "AMX", "BLAS"))
