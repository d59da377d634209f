"""Time to the first token of a model that is not loaded: against a bare process, after a switch, and after its load."""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import client, models
from benchmarks.processes import Server, start_server

CONTEXT = 2048
PROMPT_TOKENS = 16


@dataclass(slots=True)
class Timings:
    """Seconds of each repetition, by what was done; those of one repetition stand at the same place."""

    bare: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)
    switch: list[float] = field(default_factory=list)

    def report(self) -> str:
        """Return a table of medians, and the load's ratio of pairs."""
        bare, cold = statistics.median(self.bare), statistics.median(self.cold)
        over = statistics.median(c - 1.1 * b for b, c in zip(self.bare, self.cold, strict=True))
        ratio = statistics.median(c / b for b, c in zip(self.bare, self.cold, strict=True))
        rows = [
            ("bare process: load the file, decode one token", bare, ""),
            ("request for a model that is not loaded, first token", cold, f"{ratio:.2f} x bare"),
            ("... beyond 1.1 x the bare process (wanted <= 0.5 s)", over, ""),
            ("the same request once it is loaded", statistics.median(self.warm), ""),
            ("switch to the other model, first token", statistics.median(self.other), ""),
            ("switch back, first token", statistics.median(self.switch), ""),
        ]
        lines = [f"| {name} | {seconds:.3f} | {note} |" for name, seconds, note in rows]
        return "\n".join(["| work | s | |", "|---|---|---|", *lines])


def bare_load(path: Path, threads: int) -> float:
    """Return the seconds from starting a process to its first token."""
    command = [sys.executable, "-m", "benchmarks.bare_load", str(path), str(CONTEXT), str(threads)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


async def first_token(server: Server, model: str, n_vocab: int) -> float:
    """Return the seconds from sending a request to its first token."""
    prompt = [17 + 31 * index % (n_vocab - 100) for index in range(PROMPT_TOKENS)]
    return (await client.complete(server.port, prompt, 2, model=model)).first


async def repetition(server: Server, large: tuple[Path, int], small: tuple[Path, int], timings: Timings) -> None:
    """Measure everything once on a server with room for one model; the small one is loaded at the beginning."""
    (path, n_vocab), (other, n_other) = large, small
    timings.cold.append(await first_token(server, path.stem, n_vocab))
    timings.warm.append(await first_token(server, path.stem, n_vocab))
    timings.other.append(await first_token(server, other.stem, n_other))
    timings.switch.append(await first_token(server, path.stem, n_vocab))
    await client.post(server.port, "/v1/models/unload", {"model": path.stem})


def measure(size: str, threads: int, repeats: int, say: Callable[[str], None]) -> Timings:
    """Run all repetitions, the bare process and the server by turns."""
    large, small = models.make(size), models.make("tiny")
    timings = Timings()
    settings = {"context_length": CONTEXT, "kv_layout": "unified", "parallel": 1}
    server = start_server(large[0], threads, models={"max_loaded": 1, "preload": []}, **settings)
    try:
        bare_load(large[0], threads)  # the file is in the page cache from here on, for both sides
        for number in range(repeats):
            timings.bare.append(bare_load(large[0], threads))
            asyncio.run(repetition(server, large, small, timings))
            say(f"{number + 1}/{repeats}: bare {timings.bare[-1]:.2f} s, cold {timings.cold[-1]:.2f} s")
    finally:
        server.close()
    return timings


def main() -> None:
    """Parse the command line, measure, print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold_load", description=__doc__)
    parser.add_argument("--size", choices=sorted(models.SIZES), default="135m")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    timings = measure(options.size, options.threads, options.repeats, lambda line: print(line, file=sys.stderr))
    print(f"\n{options.size}, {options.threads} threads, context {CONTEXT}, medians of {options.repeats}\n")
    print(timings.report())


if __name__ == "__main__":
    main()
