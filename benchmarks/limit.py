"""The physical limit: the bare decode loop on the same file, with no server, no sampling and no text.

Runs as a child that keeps the model loaded, reads one JSON command a line on stdin and answers with one JSON line, so
that it can be paired with the server run by run. Every command builds its own context and frees it.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as llama

from benchmarks.workloads import Workload

N_BATCH = 512


@dataclass(slots=True)
class Context:
    """A llama.cpp context and one reusable batch."""

    handle: Any
    batch: Any

    def decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        """Evaluate (token, position, sequence, wants logits) rows in one batch and wait for it."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for index, (token, position, sequence, wants_logits) in enumerate(rows):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = wants_logits
        if llama.llama_decode(self.handle, batch) != 0:
            message = f"llama_decode failed for {len(rows)} tokens"
            raise RuntimeError(message)
        llama.llama_synchronize(self.handle)

    def prefill(self, sequence: int, tokens: Sequence[int], start: int = 0) -> None:
        """Evaluate a prompt in batches of ``N_BATCH``; only its last token yields logits."""
        last = len(tokens) - 1
        for offset in range(0, len(tokens), N_BATCH):
            part = tokens[offset : offset + N_BATCH]
            self.decode([(t, start + offset + i, sequence, offset + i == last) for i, t in enumerate(part)])

    def copy(self, source: int, target: int) -> None:
        """Make a whole sequence another's copy."""
        llama.llama_memory_seq_cp(llama.llama_get_memory(self.handle), source, target, -1, -1)


@contextmanager
def open_context(model: Any, *, cells: int, sequences: int, unified: bool, threads: int) -> Iterator[Context]:  # noqa: ANN401
    """Create a context with ``cells`` KV cells per sequence in streams, or in all when unified."""
    params = llama.llama_context_default_params()
    params.n_ctx = cells if unified else cells * sequences
    params.n_seq_max = sequences
    params.n_batch = params.n_ubatch = N_BATCH
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = unified
    params.no_perf = True
    handle = llama.llama_init_from_model(model, params)
    if not handle:
        message = f"no context of {cells} cells x {sequences} sequences"
        raise RuntimeError(message)
    batch = llama.llama_batch_init(N_BATCH, 0, 1)
    try:
        yield Context(handle, batch)
    finally:
        llama.llama_batch_free(batch)
        llama.llama_free(handle)


@dataclass(slots=True)
class Limit:
    """All measurements of the bare loop; each returns seconds."""

    model: Any
    work: Workload
    threads: int

    def streams(self, count: int, unified: bool) -> dict[str, float]:
        """Seconds per decode step with ``count`` sequences at short context."""
        work = self.work
        cells = work.short_prompt + work.short_answer
        with self._open(cells * (count if unified else 1), count, unified) as context:
            for sequence in range(count):
                context.prefill(sequence, work.prompt(sequence, work.short_prompt))
            tokens = work.prompt(99, work.short_answer)
            started = time.perf_counter()
            for step, token in enumerate(tokens):
                context.decode([(token, work.short_prompt + step, sequence, True) for sequence in range(count)])
            return {"step": (time.perf_counter() - started) / len(tokens)}

    def shared_prefix(self, unified: bool) -> dict[str, float]:
        """Seconds for one prefill of the system prompt, then waves of tails and answers on copies of it."""
        work = self.work
        wave = work.shared_at_a_time
        cells = 2048 if not unified else work.system_prompt + (wave + 1) * (work.tail + work.shared_answer)
        with self._open(cells, wave + 1, unified) as context:
            started = time.perf_counter()
            context.prefill(0, work.prompt(1, work.system_prompt))
            for first in range(0, work.shared_requests, wave):
                self._wave(context, first, wave)
            return {"wall": time.perf_counter() - started}

    def _wave(self, context: Context, first: int, wave: int) -> None:
        work, memory = self.work, llama.llama_get_memory(context.handle)
        rows = []
        for index in range(wave):
            llama.llama_memory_seq_rm(memory, index + 1, -1, -1)
            context.copy(0, index + 1)
            tail = work.prompt(1000 + first + index, work.tail)
            last = work.tail - 1
            rows += [(t, work.system_prompt + i, index + 1, i == last) for i, t in enumerate(tail)]
        for offset in range(0, len(rows), N_BATCH):
            context.decode(rows[offset : offset + N_BATCH])
        for step, token in enumerate(work.prompt(2, work.shared_answer - 1)):
            context.decode([(token, work.system_prompt + work.tail + step, s + 1, True) for s in range(wave)])

    def long_prompt(self, unified: bool) -> dict[str, float]:
        """Seconds to prefill the long prompt alone."""
        with self._open(self.work.long_prompt + 8, 1, unified) as context:
            started = time.perf_counter()
            context.prefill(0, self.work.prompt(3, self.work.long_prompt))
            return {"wall": time.perf_counter() - started}

    def cached_prompt(self, unified: bool) -> dict[str, float]:
        """Seconds to evaluate the one token that a fully cached prompt leaves."""
        work = self.work
        with self._open(2 * work.cached_prompt, 1, unified) as context:
            prompt = work.prompt(4, work.cached_prompt)
            context.prefill(0, prompt)
            seconds = []
            for _ in range(20):
                memory = llama.llama_get_memory(context.handle)
                llama.llama_memory_seq_rm(memory, 0, work.cached_prompt - 1, -1)
                started = time.perf_counter()
                context.decode([(prompt[-1], work.cached_prompt - 1, 0, True)])
                seconds.append(time.perf_counter() - started)
            return {"wall": sorted(seconds)[len(seconds) // 2]}

    def _open(self, cells: int, sequences: int, unified: bool) -> Any:  # noqa: ANN401
        return open_context(self.model, cells=cells, sequences=sequences, unified=unified, threads=self.threads)


_QUIET = llama.llama_log_callback(lambda _level, _text, _data: None)


def main() -> None:
    """Serve commands such as ``{"name": "streams", "count": 8, "unified": false}`` until stdin ends."""
    path, n_vocab, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    llama.llama_log_set(_QUIET, ctypes.c_void_p())
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    limit = Limit(model, Workload(n_vocab), threads)
    for line in sys.stdin:
        command = json.loads(line)
        measure: Callable[..., dict[str, float]] = getattr(limit, command.pop("name"))
        print(json.dumps(measure(**command)), flush=True)


if __name__ == "__main__":
    main()
