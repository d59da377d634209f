"""What fell out of the KV cache and is kept elsewhere, in memory or in files: found by its tokens, bounded by bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from localllm.contract.decoder import Capabilities
from localllm.engine.radix import RadixTree
from localllm.engine.sequence import Resident, Scope


class Save(NamedTuple):
    """An order: keep what ``seq`` holds under ``handle``, before the next operation changes it."""

    seq: int
    handle: int


@dataclass(frozen=True, slots=True, eq=False)
class SavedPrefix:
    """The evaluated ``tokens`` of a sequence that is gone. ``n_bytes`` of memory are taken; 0: it lies in a file."""

    handle: int
    scope: Scope
    tokens: list[int]
    prompt_length: int
    n_bytes: int = 0


class SavedPrefixes:
    """Knows what is saved for whom, and lets the least recently saved go. A scope's are invisible to other scopes.

    It only books: ``take_saves`` and ``take_dropped`` say what is to be done about the states themselves, in this
    order, and by which handles.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        self._saving = capabilities.saving
        self._can_truncate = capabilities.can_truncate
        self._longest = capabilities.context_length
        self.worthwhile_tokens = 0 if self._saving is None else self._saving.worthwhile_tokens
        self._by_handle: dict[int, SavedPrefix] = {}  # least recently used first
        self._trees: dict[Scope, RadixTree] = {}
        self._saves: list[Save] = []
        self._dropped: list[int] = []
        self._n_handles = 0
        self._n_bytes = 0

    def __len__(self) -> int:
        return len(self._by_handle)

    def keep(self, resident: Resident) -> None:
        """Order that what a resident holds is saved, unless it is too little, too much, or saved already."""
        n_tokens = resident.evaluated
        if self._saving is None or n_tokens < self.worthwhile_tokens:
            return
        n_bytes = max(1, self._saving.n_bytes(n_tokens))
        tokens = resident.tokens[:n_tokens]
        if n_bytes > self._saving.ram_bytes or self._covers(resident.scope, tokens):
            return
        while self._n_bytes + n_bytes > self._saving.ram_bytes:
            self.drop(next(saved.handle for saved in self._by_handle.values() if saved.n_bytes))
        saved = self._add(resident.scope, tokens, resident.prompt_length, n_bytes)
        self._saves.append(Save(resident.seq, saved.handle))

    def add_file(self, scope: Scope, tokens: Sequence[int], prompt_length: int) -> int | None:
        """Book what lies in a file, and return its handle; None where no request could go on from it."""
        if not self.worthwhile_tokens <= len(tokens) < self._longest:
            return None
        return self._add(scope, list(tokens), prompt_length, 0).handle

    def best(self, scope: Scope, tokens: list[int], limit: int) -> tuple[int, SavedPrefix] | None:
        """Return the longest usable match among the first ``limit`` tokens; of equals one in memory, then the shortest.

        Where nothing can be cut off, only what is a prefix as a whole is of use.
        """
        tree = self._trees.get(scope)
        if tree is None:
            return None
        found = [(length, self._by_handle[handle]) for length, handle in tree.match(tokens, limit)]
        usable = [match for match in found if self._can_truncate or match[0] == len(match[1].tokens)]
        return min(usable, key=lambda match: (-match[0], match[1].n_bytes == 0, len(match[1].tokens)), default=None)

    def take(self, saved: SavedPrefix) -> None:
        """Let go of one in memory that is about to be put back; one in a file stays where it is."""
        if saved.n_bytes:
            self._remove(saved.handle)

    def drop(self, handle: int) -> None:
        """Forget one, and order that its state is let go."""
        self._remove(handle)
        if any(save.handle == handle for save in self._saves):
            self._saves = [save for save in self._saves if save.handle != handle]
        else:
            self._dropped.append(handle)

    def lose(self, handle: int) -> None:
        """Forget one whose state turned out not to be there, if it is still known."""
        if handle in self._by_handle:
            self._remove(handle)

    def in_memory(self) -> list[SavedPrefix]:
        """Return what is saved in memory, most recently saved first."""
        return [saved for saved in reversed(self._by_handle.values()) if saved.n_bytes]

    def take_saves(self) -> tuple[Save, ...]:
        """Return the orders to save since the last call; they come before any operation that was booked after them."""
        saves, self._saves = tuple(self._saves), []
        return saves

    def take_dropped(self) -> tuple[int, ...]:
        """Return the handles of states that are not needed any more."""
        dropped, self._dropped = tuple(self._dropped), []
        return dropped

    def _add(self, scope: Scope, tokens: list[int], prompt_length: int, n_bytes: int) -> SavedPrefix:
        self._n_handles += 1
        saved = SavedPrefix(self._n_handles, scope, tokens, prompt_length, n_bytes)
        self._by_handle[saved.handle] = saved
        self._n_bytes += n_bytes
        self._trees.setdefault(scope, RadixTree()).put(saved.handle, tokens, len(tokens))
        return saved

    def _remove(self, handle: int) -> None:
        saved = self._by_handle.pop(handle)
        self._n_bytes -= saved.n_bytes
        tree = self._trees[saved.scope]
        tree.discard(handle)
        if not len(tree):
            del self._trees[saved.scope]

    def _covers(self, scope: Scope, tokens: list[int]) -> bool:
        """Whether these tokens are saved in memory already; what they make needless there is dropped."""
        tree = self._trees.get(scope)
        found = [] if tree is None else tree.match(tokens, len(tokens))
        for length, handle in found:
            saved = self._by_handle[handle]
            if not saved.n_bytes:
                continue
            if length == len(tokens) and (self._can_truncate or length == len(saved.tokens)):
                self._by_handle[handle] = self._by_handle.pop(handle)  # the most recently used now
                return True
            if length == len(saved.tokens) and self._can_truncate:
                self.drop(handle)
        return False

    def check(self) -> None:
        """Assert that the bytes add up, within their bounds, and that the trees hold what is booked."""
        assert self._n_bytes == sum(saved.n_bytes for saved in self._by_handle.values())
        assert self._saving is None or self._n_bytes <= self._saving.ram_bytes
        assert self._saving is not None or not self._by_handle
        for tree in self._trees.values():
            tree.check()
        found_by = {scope: tree.lengths() for scope, tree in self._trees.items()}
        for handle, saved in self._by_handle.items():
            assert found_by[saved.scope].pop(handle) == len(saved.tokens)
        assert not any(found_by.values())
        assert {save.handle for save in self._saves} <= self._by_handle.keys()
