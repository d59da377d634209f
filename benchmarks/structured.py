"""What a schema costs: streams of the server with and without one, in pairs: ``python -m benchmarks.structured``."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks import models
from benchmarks.client import Answer, complete
from benchmarks.processes import start_server
from benchmarks.workloads import Workload

STREAMS = 8
MANY = 1000
TEXT: Mapping[str, Any] = {"type": "array", "items": {"type": "string", "minLength": 400}, "minItems": MANY}
RECORD: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "kind": {"enum": ["city", "village", "country"]},
        "population": {"type": "integer", "minimum": 0, "maximum": 10_000_000},
        "is_capital": {"type": "boolean"},
    },
    "required": ["name", "kind", "population", "is_capital"],
    "additionalProperties": False,
}
SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "long strings: nearly every token that is drawn may stand": TEXT,
    "records: most tokens must be found by a mask": {"type": "array", "items": RECORD, "minItems": MANY},
}
"""Random weights know no JSON: what a real model writes lies between these two, and nearer to the first."""


@dataclass(slots=True)
class Row:
    """One line of the table: tokens per second without and with a schema, run by run, and the median of the ratios."""

    name: str
    free: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        ratio = statistics.median(held / free for free, held in zip(self.free, self.held, strict=True))
        free, held = statistics.median(self.free), statistics.median(self.held)
        return f"| {self.name} | {free:.2f} | {held:.2f} | {ratio:.3f} | >= 0.90 |"


@dataclass(slots=True)
class Streams:
    """Writes so many answers at once; no prompt is sent twice."""

    port: int
    work: Workload
    count: int
    _seeds: itertools.count[int] = field(default_factory=lambda: itertools.count(20_000))

    async def tokens_per_second(self, schema: Mapping[str, Any] | None) -> float:
        """Return what all streams together were written at, from each one's first token to its last."""
        fields = {} if schema is None else {"structured_outputs": {"json": schema}}
        answers = await asyncio.gather(*(self._write(fields) for _ in range(self.count)))
        return sum((self.work.short_answer - 1) / (answer.arrivals[-1] - answer.arrivals[0]) for answer in answers)

    async def _write(self, fields: Mapping[str, Any]) -> Answer:
        prompt = self.work.prompt(next(self._seeds), self.work.short_prompt)
        answer = await complete(self.port, prompt, self.work.short_answer, **fields)
        if answer.usage["completion_tokens"] != self.work.short_answer:
            message = f"an answer ended after {answer.usage['completion_tokens']} tokens; the schema must be longer"
            raise RuntimeError(message)
        return answer


def main() -> None:
    """Measure each schema in turn with nothing, run by run, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.structured", description=__doc__)
    parser.add_argument("--size", choices=sorted(models.SIZES), default="135m")
    parser.add_argument("--n-vocab", type=int, help="vocabulary size, when it is not the size's own")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--streams", type=int, default=STREAMS)
    options = parser.parse_args()
    path, n_vocab = models.make(options.size, options.n_vocab)
    server = start_server(path, options.threads, parallel=options.streams, context_length=2048)
    rows = [Row(name) for name in SCHEMAS]
    try:
        streams = Streams(server.port, Workload(n_vocab, short_answer=options.tokens), options.streams)
        for schema in (None, *SCHEMAS.values()):
            asyncio.run(streams.tokens_per_second(schema))  # loads the model, compiles the grammar
        for _, (row, schema) in itertools.product(range(options.repeats), zip(rows, SCHEMAS.values(), strict=True)):
            row.free.append(asyncio.run(streams.tokens_per_second(None)))
            row.held.append(asyncio.run(streams.tokens_per_second(schema)))
    finally:
        server.close()
    print(f"\n{path.stem}, {options.streams} streams, {options.threads} threads, medians of {options.repeats}\n")
    print("| schema | without, tokens/s | with, tokens/s | with / without | wanted |\n|---|---|---|---|---|")
    print("\n".join(map(str, rows)))


if __name__ == "__main__":
    main()
