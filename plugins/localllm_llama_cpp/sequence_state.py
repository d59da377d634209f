"""Takes what a sequence holds out of the library's memory, and puts it back."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lib

from localllm import Capabilities, State


class SequenceStates:
    """States of sequences in the library's own form (``llama_state_seq_get_data``). Used by the step thread only.

    Between streams the library copies late: when it next decodes (``llama_kv_cache::update``). Until then a copy's
    target holds nothing, so that its state would be zeros, and what is put into either of the two would be mixed up.
    """

    def __init__(self, context: Any, capabilities: Capabilities) -> None:  # noqa: ANN401  # llama_context pointer
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._copies_late = capabilities.layout == "streams"
        self._sources: set[int] = set()
        self._targets: set[int] = set()

    def copied(self, source: int, target: int) -> None:
        """Note a copy that the library was asked for."""
        if self._copies_late:
            self._sources.add(source)
            self._targets.add(target)

    def decoded(self) -> None:
        """Note that the library has done the copies."""
        self._sources.clear()
        self._targets.clear()

    def save(self, seq: int) -> State | None:
        """Return what ``seq`` holds; None where that is not there yet, or memory is short."""
        if seq in self._targets:
            return None
        size = int(lib.llama_state_seq_get_size(self._context, seq))
        try:
            state = bytearray(size)
        except MemoryError:
            return None
        buffer = (ctypes.c_uint8 * size).from_buffer(state)
        return state if size and lib.llama_state_seq_get_data(self._context, buffer, size, seq) == size else None

    def restore(self, seq: int, state: State, n_tokens: int) -> bool:
        """Make empty ``seq`` hold ``n_tokens`` positions; False, and ``seq`` empty, where the library refuses.

        It checks types and sizes, and parses the rest as it comes: give it only what it wrote itself.
        """
        if seq in self._sources or seq in self._targets:
            return False
        data = state if isinstance(state, bytearray) else bytearray(state)
        buffer = (ctypes.c_uint8 * len(data)).from_buffer(data)
        n_read = lib.llama_state_seq_set_data(self._context, buffer, len(data), seq)
        if n_read == len(data) and lib.llama_memory_seq_pos_max(self._memory, seq) == n_tokens - 1:
            return True
        lib.llama_memory_seq_rm(self._memory, seq, -1, -1)
        return False
