"""Compare ``localllm serve`` with the bare decode loop on one random-weight model, run by run, and print the ratios."""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import models
from benchmarks.processes import LimitProcess, Server, start_server
from benchmarks.scenarios import Scenarios
from benchmarks.workloads import Workload

MEBIBYTE = 1024 * 1024


@dataclass(slots=True)
class Row:
    """One line of the table: what, the limit's and the server's medians, and the median of the paired ratios.

    The bare loop is measured in both layouts each time; the limit is the layout with the better median. To take the
    better one of each pair would compare the luckier of two runs with one of the server.
    """

    name: str
    unit: str
    layouts: dict[bool, list[float]] = field(default_factory=dict)  # the limit's figures, by "unified"
    server: list[float] = field(default_factory=list)
    wanted: str = ""
    higher_is_better: bool = False

    @property
    def limit(self) -> list[float]:
        """The figures of the better layout; empty where there is no limit."""
        best = max if self.higher_is_better else min
        return best(self.layouts.values(), key=statistics.median) if self.layouts else []

    def add_limit(self, figures: Mapping[bool, float]) -> None:
        """Add one measurement of each layout."""
        for unified, figure in figures.items():
            self.layouts.setdefault(unified, []).append(figure)

    def __str__(self) -> str:
        ratio = ""
        if self.limit:
            pairs = zip(self.limit, self.server, strict=True)
            ratio = f"{statistics.median(s / b for b, s in pairs):.3f}"
        limit = f"{statistics.median(self.limit):.2f}" if self.limit else "-"
        return (
            f"| {self.name} | {limit} | {statistics.median(self.server):.2f} | {self.unit} | {ratio} | {self.wanted} |"
        )


@dataclass(slots=True)
class Run:
    """Both sides of one comparison, and the table that they fill."""

    limit: LimitProcess
    work: Workload
    repeats: int
    rows: list[Row] = field(default_factory=list)

    def streams(self, scenarios: Scenarios, counts: list[int]) -> None:
        """Tokens per second of one and of many streams."""
        for count in counts:
            wanted = {1: ">= 0.95", 32: ">= 0.85"}.get(count, "")
            row = self._row(f"{count} stream{'s' * (count > 1)}, all tokens", "tokens/s", wanted)
            row.higher_is_better = True
            for _ in range(self.repeats):
                steps = self.limit.both("streams", count=count)
                row.add_limit({unified: count / seconds for unified, seconds in steps.items()})
                row.server.append(count / asyncio.run(scenarios.streams(count)))

    def shared_prefix(self, scenarios: Scenarios) -> None:
        """Many requests with one system prompt."""
        wall = self._row("32 requests share 1,000 tokens, wall", "s", "<= 1.5")
        first = self._row("... time to first token, p95", "s", "<= 2 s")
        for _ in range(self.repeats):
            wall.add_limit(self.limit.both("shared_prefix"))
            seconds, p95 = asyncio.run(scenarios.shared_prefix())
            wall.server.append(seconds)
            first.server.append(p95)

    def long_prompt(self, scenarios: Scenarios) -> None:
        """A long prompt among running streams."""
        gap = self._row("1,800-token prompt among 7 streams, longest token gap", "ms", "<= 400 ms")
        first = self._row("... its first token, beside its bare prefill", "s")
        for _ in range(self.repeats):
            first.add_limit(self.limit.both("long_prompt"))
            longest, seconds = asyncio.run(scenarios.long_prompt())
            gap.server.append(longest * 1000)
            first.server.append(seconds)

    def cached_prompt(self, scenarios: Scenarios) -> None:
        """What the server adds to the first token when nothing is left to evaluate."""
        row = self._row("fully cached 200-token prompt, first token", "ms", "<= 5 ms more")
        for _ in range(self.repeats):
            row.add_limit({unified: 1000 * s for unified, s in self.limit.both("cached_prompt").items()})
            row.server.append(asyncio.run(scenarios.cached_prompt()) * 1000)

    def conversations(self, scenarios: Scenarios) -> None:
        """More conversations than answers at a time."""
        row = self._row("12 conversations of 4 turns, 4 at a time, median first token", "s")
        for _ in range(self.repeats):
            row.server.append(asyncio.run(scenarios.conversations()))

    def process(self, server: Server) -> None:
        """What the server process costs by itself."""
        self._row("time to /health", "s", "<= 1 s").server.append(server.seconds_to_health)
        self._row("server process, resident", "MiB", "<= 120").server.append(server.resident_bytes() / MEBIBYTE)

    def _row(self, name: str, unit: str, wanted: str = "") -> Row:
        row = Row(name, unit, wanted=wanted)
        self.rows.append(row)
        return row


def main() -> None:
    """Parse the command line, run the chosen scenarios, print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--size", choices=sorted(models.SIZES), default="135m")
    parser.add_argument("--n-vocab", type=int, help="vocabulary size, when it is not the size's own")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layout", choices=["auto", "unified", "streams"], default="auto")
    parser.add_argument(
        "--small-pages", action="store_true", help="leave the weights in small pages, as the limit does"
    )
    parser.add_argument("--only", nargs="*", default=["streams", "shared", "long", "cached", "conversations"])
    parser.add_argument("--streams", nargs="*", type=int, default=[1, 8, 32])
    options = parser.parse_args()
    path, n_vocab = models.make(options.size, options.n_vocab)
    work = Workload(n_vocab)
    run = Run(LimitProcess(path, n_vocab, options.threads), work, options.repeats)
    both: dict[str, object] = {"context_length": 2048, "huge_pages": not options.small_pages}
    wide = {**both, "parallel": 32, "cached_sequences": 8, "kv_layout": options.layout}
    narrow = {**both, "parallel": 4, "cached_sequences": 12, "kv_layout": "unified"}
    parts: list[tuple[str, dict[str, object], Callable[[Scenarios], None]]] = [
        ("streams", wide, lambda scenarios: run.streams(scenarios, options.streams)),
        ("shared", wide, run.shared_prefix),
        ("long", wide, run.long_prompt),
        ("cached", wide, run.cached_prompt),
        ("conversations", narrow, run.conversations),
    ]
    for settings in (wide, narrow):
        chosen = [part for name, wants, part in parts if wants is settings and name in options.only]
        if chosen:
            _with_server(run, path, options.threads, settings, chosen)
    run.limit.close()
    pages = "small" if options.small_pages else "huge"
    print(f"\n{path.stem}, {options.threads} threads, layout {options.layout}, medians of {options.repeats};")
    print(f"the server's weights in {pages} pages where it could, the limit's in small ones\n")
    print("| work | limit | server | unit | server / limit | wanted |\n|---|---|---|---|---|---|")
    print("\n".join(map(str, run.rows)))


def _with_server(
    run: Run, path: Path, threads: int, settings: dict[str, object], parts: list[Callable[[Scenarios], None]]
) -> None:
    server = start_server(path, threads, encoder=None, **settings)
    try:
        scenarios = Scenarios(server.port, run.work)
        asyncio.run(scenarios.warm_up())
        server.wait_until_settled()
        for part in parts:
            part(scenarios)
        run.process(server)
    finally:
        server.close()


if __name__ == "__main__":
    main()
