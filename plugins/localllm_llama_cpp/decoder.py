"""Evaluates plans with llama.cpp: memory operations, one batch, then a draw for each choice that wants one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from localllm import (
    Capabilities,
    Clear,
    Copy,
    InvalidRequestError,
    Op,
    Plan,
    Sampled,
    SamplingParams,
    Scored,
    SequenceKey,
    Slice,
    State,
    Truncate,
    scales_of,
)

from .adapters import NO_ADAPTERS, Adapters
from .batch import Batch
from .chain import Candidates
from .gaps import GapRule, gap_fillers
from .grammars import Masks
from .idle_work import IdleWork
from .logprobs import RowLogprobs
from .sampling import RequestSampler
from .sequence_state import SequenceStates

DECODE_ERRORS = {
    1: "no room in the KV cache for the batch",
    2: "the computation was aborted",
    -1: "the batch is invalid",
    -2: "memory could not be allocated",
    -3: "the computation failed",
}
"""What ``llama_decode`` returns (llama.h; -2 and -3 by ``llama_context::decode``)."""


_Refused = tuple[SequenceKey, NDArray[np.float32], list[RowLogprobs]]
"""A draw that a grammar does not allow: whose it is, its row of logits, and what the choices of that row share."""


class LlamaDecoder:
    """The real decoder. All methods run on the step thread; the context outlives it and is freed by the loader."""

    def __init__(
        self,
        context: Any,  # noqa: ANN401  # llama_context pointer
        capabilities: Capabilities,
        n_vocab: int,
        new_sampler: Callable[[SamplingParams, Sequence[int]], RequestSampler],
        masks: Masks,
        gap_rule: GapRule,
        idle_work: IdleWork | None = None,
        adapters: Adapters = NO_ADAPTERS,
    ) -> None:
        self._context = context
        self._memory = lib.llama_get_memory(context)
        self._capabilities = capabilities
        self._n_vocab = n_vocab
        self._new_sampler = new_sampler
        self._masks = masks
        self._gap_rule = gap_rule
        self._idle_work = idle_work
        self._adapters = adapters
        self._group = Plan().group  # whose adapters are in the context
        self._states = SequenceStates(context, capabilities)
        self._batch = Batch(capabilities.n_batch)
        self._candidates = Candidates(n_vocab)
        self._samplers: dict[str, RequestSampler] = {}
        self._lengths = [0] * capabilities.n_seq_max  # positions that each sequence holds
        self._views: dict[tuple[int, int], NDArray[np.float32]] = {}  # of the output buffer, by address and rows
        self._row_owners: list[Slice] = []  # of the submitted plan's output rows, in row order
        self._score_rows: list[tuple[Slice, NDArray[np.float32]]] = []  # of the collected plan; valid until the next

    @property
    def capabilities(self) -> Capabilities:
        """Fixed after loading."""
        return self._capabilities

    def open(self, request_id: str, sampling: SamplingParams, prompt: Sequence[int]) -> None:
        """Create the samplers of a request. Raises ``InvalidRequestError`` for what this model can't do."""
        if prompt and not (min(prompt) >= 0 and max(prompt) < self._n_vocab):
            message = f"The prompt holds tokens that this model lacks; its tokens are 0 to {self._n_vocab - 1}."
            raise InvalidRequestError(message, param="prompt")
        self._samplers[request_id] = self._new_sampler(sampling, prompt)
        if self._idle_work is not None:
            self._idle_work.begin()

    def force(self, key: SequenceKey, tokens: Sequence[int]) -> None:
        """Have a choice's sampler remember tokens that it did not draw."""
        self._samplers[key.request_id].choices[key.choice].force(tokens)

    def close(self, request_id: str) -> None:
        """Free the samplers of a request."""
        self._samplers.pop(request_id).close()
        if self._idle_work is not None:
            self._idle_work.end()

    def submit(self, plan: Plan) -> None:
        """Apply the operations and start the batch; on a GPU this returns before it is computed."""
        for op in plan.ops:
            self._apply(op)
        slices: Sequence[Slice] = plan.slices
        fillers: Sequence[Slice] = ()
        if self._capabilities.layout == "streams":
            slices = sorted(slices, key=_by_sequence)
            fillers = self._gap_fillers(slices)
            slices = sorted([*slices, *fillers], key=_by_sequence) if fillers else slices
        self._score_rows = []
        self._row_owners = self._batch.fill(slices)
        if not slices:
            return
        if plan.group != self._group:
            self._adapters.apply(self._context, scales_of(plan.group, self._adapters.scales))
            self._group = plan.group
        code = lib.llama_decode(self._context, self._batch.native)
        if code != 0:
            message = f"llama_decode returned {code}: {DECODE_ERRORS.get(code, 'unknown error')}"
            raise RuntimeError(message)
        self._states.decoded()
        for part in plan.slices:
            self._lengths[part.seq] = part.start + len(part.tokens)
        for part in fillers:
            self._remove(part.seq, part.start)

    def collect(self) -> Mapping[SequenceKey, Sequence[Sampled]]:
        """Wait for the submitted plan and draw one token for each of its keys."""
        if not self._row_owners:
            return {}
        drawn: dict[SequenceKey, Sequence[Sampled]] = {}
        refused: list[_Refused] = []
        rows = self._rows(sum(part.n_rows for part in self._row_owners))
        end = 0
        for part in self._row_owners:
            start, end = end, end + part.n_rows
            if part.targets:
                self._score_rows.append((part, rows[start : start + len(part.targets)]))
            row = rows[end - 1]
            shared: list[RowLogprobs] = []
            for key in part.sample:
                sampled = self._samplers[key.request_id].sample(key.choice, row, self._candidates, shared)
                if sampled is None:
                    refused.append((key, row, shared))
                else:
                    drawn[key] = sampled
        if refused:
            self._draw_again(refused, drawn)
        return drawn

    def scores(self) -> Mapping[int, Sequence[Scored]]:
        """Return what the targets of the collected plan were worth: one row at a time, which the cache holds."""
        return {
            part.seq: [
                Scored((one := RowLogprobs(row)).of(target), one.top(part.n_top))
                for target, row in zip(part.targets, rows, strict=True)
            ]
            for part, rows in self._score_rows
        }

    def save(self, seq: int) -> State | None:
        """Return what a sequence holds, in the library's own form; None where that can't be had."""
        return self._states.save(seq)

    def restore(self, seq: int, state: State, n_tokens: int) -> bool:
        """Put what was saved into an empty sequence; False where the library refuses it."""
        done = self._states.restore(seq, state, n_tokens)
        self._lengths[seq] = n_tokens if done else 0
        return done

    def _draw_again(self, refused: Sequence[_Refused], drawn: dict[SequenceKey, Sequence[Sampled]]) -> None:
        """Draw for keys whose first token their grammars don't allow; all grammars are asked at the same time."""
        self._masks.fill([self._samplers[key.request_id].grammar(key.choice) for key, _, _ in refused])
        for place, (key, row, shared) in enumerate(refused):
            allowed = self._masks.allowed(place)
            sampler = self._samplers[key.request_id]
            drawn[key] = sampler.resample(key.choice, row, self._candidates, shared, allowed)

    def close_all(self) -> None:
        """Free the samplers of requests that were still open."""
        for request_id in list(self._samplers):
            self.close(request_id)

    def _gap_fillers(self, slices: Sequence[Slice]) -> Sequence[Slice]:
        capabilities = self._capabilities
        if not capabilities.can_truncate:
            return ()  # what was added could not be taken away again
        room = capabilities.n_batch - sum(len(part.tokens) for part in slices)
        stream_cells = capabilities.n_cells // capabilities.n_seq_max
        fillers = gap_fillers(slices, self._lengths, stream_cells, self._gap_rule)
        return fillers if len(fillers) <= room else ()

    def _rows(self, count: int) -> NDArray[np.float32]:
        """Return the output rows, in the order of their tokens in the batch, as a view of the library's buffer."""
        lib.llama_synchronize(self._context)
        logits = lib.llama_get_logits(self._context)
        if not logits:
            message = "llama.cpp returned no logits for a batch that asked for some"
            raise RuntimeError(message)
        address = ctypes.addressof(logits.contents)
        rows = self._views.get((address, count))
        if rows is None:  # the library keeps its buffer for as long as no step asks for more rows than ever before
            rows = np.ctypeslib.as_array(logits, shape=(count, self._n_vocab))
            self._views[address, count] = rows
        return rows

    def _apply(self, op: Op) -> None:
        if isinstance(op, Clear):
            self._remove(op.seq, 0)
            self._lengths[op.seq] = 0
        elif isinstance(op, Truncate):
            self._remove(op.seq, op.length)
            self._lengths[op.seq] = op.length
        else:
            self._copy(op)
            self._lengths[op.target] = op.length

    def _remove(self, seq: int, length: int) -> None:
        """Forget the positions of ``seq`` from ``length`` on."""
        if not lib.llama_memory_seq_rm(self._memory, seq, length if length > 0 else -1, -1):
            message = f"llama.cpp refused to cut sequence {seq} to {length} tokens"
            raise RuntimeError(message)

    def _copy(self, op: Copy) -> None:
        self._states.copied(op.source, op.target)
        if self._capabilities.layout == "unified" and self._capabilities.can_truncate:
            lib.llama_memory_seq_cp(self._memory, op.source, op.target, 0, op.length)
            return
        # Between streams only everything can be copied; a part of it is an assertion in llama_kv_cache::seq_cp.
        lib.llama_memory_seq_cp(self._memory, op.source, op.target, -1, -1)
        if self._capabilities.can_truncate:
            self._remove(op.target, op.length)


def _by_sequence(part: Slice) -> int:
    return part.seq
