"""A strict model of a KV cache: refuses every operation that the scheduler promised never to ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

from localllm.contract.decoder import Capabilities, Clear, Copy, Op, Plan, Slice, State, Truncate

_MASK = (1 << 64) - 1


class ContractViolation(AssertionError):  # noqa: N818 - it is no error of the decoder, but of who drives it
    """A plan breaks the rules of ``localllm.contract.decoder``."""


def violated(message: str) -> NoReturn:
    """Refuse what was asked for."""
    raise ContractViolation(message)


def mix(state: int, value: int) -> int:
    """Return a 64-bit hash of ``state`` and ``value`` (splitmix64's finaliser); the same on every machine."""
    x = (state * 0x9E3779B97F4A7C15 + value + 0x632BE59BD9B4E019) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class FakeMemory:
    """Which token lies in which position of which sequence, and who shares its cell with whom.

    Keeps, per position, a hash of all tokens up to there: that is what a decoder's logits depend on.
    """

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        self._hashes: list[list[int]] = [[] for _ in range(capabilities.n_seq_max)]
        self._cells: list[list[int]] = [[] for _ in range(capabilities.n_seq_max)]
        self._groups: dict[int, str] = {}  # by sequence: of the adapters that its cells were computed with
        self._users: dict[int, int] = {}  # cell: number of sequences that hold it
        self._next_cell = 0
        self._sources: set[int] = set()  # of copies since the last batch: real ones may be done with the next
        self._targets: set[int] = set()
        self._ops: Mapping[type[Op], Callable[..., None]] = {
            Clear: self._clear,
            Truncate: self._truncate,
            Copy: self._copy,
        }

    @property
    def n_cells_used(self) -> int:
        """Cells that at least one sequence holds."""
        return len(self._users)

    def held(self, seq: int) -> int:
        """Return how many positions ``seq`` holds."""
        return len(self._hashes[self._known(seq)])

    def run(self, plan: Plan) -> None:
        """Apply a plan's operations, then its slices. Raises ``ContractViolation``."""
        for op in plan.ops:
            self._ops[type(op)](op)
        self._check_batch(plan)
        if plan.slices:
            self._sources.clear()
            self._targets.clear()
        for part in plan.slices:
            self._check_group(part, plan.group)
            self._append(part)
        self._check_cells()

    def save(self, seq: int) -> bytes:
        """Return what ``seq`` holds: the group, then the hash of each position. Raises ``ContractViolation``."""
        if not self.held(seq):
            violated(f"sequence {seq} is to be saved, but holds nothing")
        if seq in self._targets:
            violated(f"sequence {seq} is to be saved, but what was copied into it may not be there yet")
        group = self._groups[seq].encode()
        hashes = b"".join(state.to_bytes(8) for state in self._hashes[seq])
        return len(group).to_bytes(2) + group + hashes

    def restore(self, seq: int, state: State, n_tokens: int) -> None:
        """Make empty ``seq`` hold what was saved. Raises ``ContractViolation``."""
        if self.held(seq):
            violated(f"sequence {seq} is to be restored, but is not empty")
        if seq in self._sources or seq in self._targets:
            violated(f"sequence {seq} is to be restored, but a copy may still read or write it")
        data = bytes(state)
        start = 2 + int.from_bytes(data[:2])
        if len(data) != start + 8 * n_tokens:
            violated(f"{len(data)} bytes are not the state of {n_tokens} tokens")
        self._groups[seq] = data[2:start].decode()
        self._hashes[seq] = [int.from_bytes(data[at : at + 8]) for at in range(start, len(data), 8)]
        self._cells[seq] = [self._new_cell() for _ in range(n_tokens)]
        self._users.update(dict.fromkeys(self._cells[seq], 1))
        self._check_cells()

    def hash_after(self, seq: int, length: int) -> int:
        """Return the hash of the first ``length`` tokens of ``seq``."""
        return self._hashes[seq][length - 1]

    def _known(self, seq: int) -> int:
        if not 0 <= seq < self._capabilities.n_seq_max:
            violated(f"sequence {seq} does not exist: n_seq_max is {self._capabilities.n_seq_max}")
        return seq

    def _clear(self, op: Clear) -> None:
        self._cut(self._known(op.seq), 0)

    def _truncate(self, op: Truncate) -> None:
        held = self.held(op.seq)
        if not 0 < op.length <= held:
            violated(f"{op} but the sequence holds {held} positions")
        if op.length < held and not self._capabilities.can_truncate:
            violated(f"{op} but this memory refuses partial removal (the sequence holds {held} positions)")
        self._cut(op.seq, op.length)

    def _copy(self, op: Copy) -> None:
        held = self.held(op.source)
        if not self._capabilities.can_copy:
            violated(f"{op} but this memory can't copy")
        if op.source == op.target or self.held(op.target):
            violated(f"{op} but the target is not an empty sequence")
        if not 0 < op.length <= held:
            violated(f"{op} but the source holds {held} positions")
        if op.length < held and not self._capabilities.can_truncate:
            violated(f"{op} is partial ({held} held), which this memory refuses")
        self._sources.add(op.source)
        self._targets.add(op.target)
        self._groups[op.target] = self._groups[op.source]
        self._hashes[op.target] = self._hashes[op.source][: op.length]
        if self._capabilities.layout == "unified":
            self._cells[op.target] = self._cells[op.source][: op.length]
        else:
            self._cells[op.target] = [self._new_cell() for _ in range(op.length)]
        for cell in self._cells[op.target]:
            self._users[cell] = self._users.get(cell, 0) + 1

    def _cut(self, seq: int, length: int) -> None:
        for cell in self._cells[seq][length:]:
            self._users[cell] -= 1
            if not self._users[cell]:
                del self._users[cell]
        del self._cells[seq][length:]
        del self._hashes[seq][length:]

    def _new_cell(self) -> int:
        self._next_cell += 1
        return self._next_cell

    def _check_batch(self, plan: Plan) -> None:
        capabilities = self._capabilities
        if plan.n_tokens > capabilities.n_batch:
            violated(f"a plan of {plan.n_tokens} tokens, but n_batch is {capabilities.n_batch}")
        n_rows = sum(part.n_rows for part in plan.slices)
        if n_rows > capabilities.n_outputs_max:
            violated(f"a plan with {n_rows} output rows, but n_outputs_max is {capabilities.n_outputs_max}")
        if len({part.seq for part in plan.slices}) < len(plan.slices):
            violated(f"two slices of one sequence in {plan}")
        for part in plan.slices:
            self._check_targets(part)

    def _check_targets(self, part: Slice) -> None:
        if part.targets and not self._capabilities.can_score:
            violated(f"{part} has targets, but this decoder can't score")
        if len(part.targets) > len(part.tokens) - bool(part.sample):
            violated(f"{part} has more targets than rows to score them by")
        if part.targets[: len(part.tokens) - 1] != part.tokens[1 : len(part.targets) + 1]:
            violated(f"{part} has targets that are not the tokens after those that it evaluates")

    def _check_group(self, part: Slice, group: str) -> None:
        if not self.held(part.seq):
            self._groups[part.seq] = group
        if self._groups[part.seq] != group:
            violated(f"{part} of group {group!r}, but its sequence was computed with {self._groups[part.seq]!r}")

    def _append(self, part: Slice) -> None:
        held = self.held(part.seq)
        if part.start != held:
            fault = "a hole" if part.start > held else "an overlap"
            violated(f"{fault}: {part} starts at {part.start}, but the sequence holds {held} positions")
        if not part.tokens:
            violated(f"{part} has no tokens")
        hashes, cells = self._hashes[part.seq], self._cells[part.seq]
        state = hashes[-1] if hashes else 0
        for token in part.tokens:
            state = mix(state, token)
            hashes.append(state)
            cell = self._new_cell()
            cells.append(cell)
            self._users[cell] = 1

    def _check_cells(self) -> None:
        capabilities = self._capabilities
        if capabilities.layout == "unified":
            if len(self._users) > capabilities.n_cells:
                violated(f"{len(self._users)} cells in use, but n_cells is {capabilities.n_cells}")
            return
        per_stream = capabilities.n_cells // capabilities.n_seq_max
        for seq, cells in enumerate(self._cells):
            if len(cells) > per_stream:
                violated(f"sequence {seq} holds {len(cells)} positions, but a stream has {per_stream} cells")
