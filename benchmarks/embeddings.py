"""Compare ``localllm serve`` with the bare library on embeddings and reranking: ``python -m benchmarks.embeddings``."""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import client, models
from benchmarks.pooling_limit import BATCH_TOKENS
from benchmarks.processes import MeasuringChild, Server, start_server
from benchmarks.workloads import Workload

MEBIBYTE = 1024 * 1024
TEXTS = 512
WORDS = (8, 48, 200)
CLIENTS = (1, 4)


class LimitProcess(MeasuringChild):
    """The bare library (``benchmarks.pooling_limit``), one pass at a time."""

    def __init__(self, model: Path, threads: int) -> None:
        super().__init__("benchmarks.pooling_limit", model, threads)

    def tokens_per_second(self, texts: Sequence[str], batch_tokens: int) -> float:
        """Pool the texts once."""
        answer = self.ask(texts=texts, batch_tokens=batch_tokens)
        return answer["tokens"] / answer["seconds"]


@dataclass(slots=True)
class Row:
    """One line of the table; ratios are paired run by run with the batch size whose median is best."""

    name: str
    limit: dict[int, list[float]] = field(default_factory=dict)
    server: list[float] = field(default_factory=list)
    wanted: str = ""

    def __str__(self) -> str:
        server = statistics.median(self.server)
        if not self.limit:
            return f"| {self.name} | - | {server:,.0f} | | {self.wanted} |"
        best = max(self.limit.values(), key=statistics.median)
        ratio = statistics.median(s / b for b, s in zip(best, self.server, strict=True))
        return f"| {self.name} | {statistics.median(best):,.0f} | {server:,.0f} | {ratio:.3f} | {self.wanted} |"


def ask(port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST JSON and return the answer. Raises ``RuntimeError`` for anything but 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise RuntimeError(data.decode(errors="replace"))
        answer: dict[str, Any] = json.loads(data)
        return answer
    finally:
        connection.close()


def embed(port: int, texts: Sequence[str], clients: int) -> float:
    """Return tokens per second of so many clients that share the texts."""
    shares = [texts[index::clients] for index in range(clients)]
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        bodies = ({"input": share, "encoding_format": "base64"} for share in shares)
        answers = list(pool.map(lambda body: ask(port, "/v1/embeddings", body), bodies))
    seconds = time.perf_counter() - started
    return float(sum(answer["usage"]["prompt_tokens"] for answer in answers) / seconds)


def rerank(port: int, texts: Sequence[str]) -> float:
    """Return tokens per second of two queries with 100 documents each, asked at the same time."""
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        bodies = ({"query": texts[k], "documents": texts[2 + 100 * k : 102 + 100 * k]} for k in range(2))
        answers = list(pool.map(lambda body: ask(port, "/v1/rerank", body), bodies))
    seconds = time.perf_counter() - started
    return float(sum(answer["usage"]["total_tokens"] for answer in answers) / seconds)


def largest_request(server: Server, texts: Sequence[str]) -> tuple[float, float, float]:
    """Return seconds of one request of 2,048 texts in base64, and the peaks in MiB of server and workers beside it."""
    before = _tree_mebibytes(server.process.pid)
    peaks = [before]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peaks.append(_tree_mebibytes(server.process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    answer = ask(server.port, "/v1/embeddings", {"input": list(texts), "encoding_format": "base64"})
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    assert len(base64.b64decode(answer["data"][-1]["embedding"])) % 4 == 0
    return seconds, max(own for own, _ in peaks) - before[0], max(rest for _, rest in peaks) - before[1]


def chat_gaps(server: Server, n_vocab: int, vocabulary: Sequence[str]) -> tuple[float, float]:
    """Return the median token gap in ms of a chat stream alone, and of one beside four clients that embed."""
    prompt = Workload(n_vocab).prompt(5, 64)

    def stream() -> float:
        arrivals = asyncio.run(client.complete(server.port, prompt, 64)).arrivals
        return 1000 * statistics.median(b - a for a, b in pairwise(arrivals))

    stream()
    alone = stream()
    done, begun = threading.Event(), threading.Barrier(5)

    def keep_embedding(seed: int) -> None:
        embed(server.port, sentences(seed, 128, 48, vocabulary), 1)
        begun.wait()
        while not done.is_set():
            embed(server.port, sentences(seed, 128, 48, vocabulary), 1)

    with ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(keep_embedding, 500 + k) for k in range(4)]
        begun.wait()
        beside = stream()
        done.set()
        for one in busy:
            one.result()
    return alone, beside


def _tree_mebibytes(pid: int) -> tuple[float, float]:
    """Resident memory of the server process, and of its children together."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return _resident(pid), sum(_resident(int(child)) for child in children)


def _resident(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / MEBIBYTE for line in status.splitlines() if "VmRSS" in line), 0.0)


def sentences(seed: int, count: int, words: int, vocabulary: Sequence[str]) -> list[str]:
    """Return texts of so many words each, never the same twice."""
    rng = random.Random(seed)
    return [" ".join(rng.choice(vocabulary) for _ in range(words)) for _ in range(count)]


def main() -> None:
    """Run all measurements and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embeddings", description=__doc__)
    parser.add_argument("--model", type=Path, help="an embedding model of your own; default: random weights")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--words", nargs="*", type=int, default=list(WORDS))
    options = parser.parse_args()
    path, vocabulary = models.make_encoder(options.model)
    chat, n_vocab = models.make("135m")
    limit = LimitProcess(path, options.threads)
    server = start_server(chat, options.threads, encoder=path)
    rows: list[Row] = []
    extra: list[str] = []
    try:
        ask(server.port, "/v1/embeddings", {"input": "warm up"})
        for words in options.words:
            rows += _embedding_rows(limit, server, options.repeats, words, vocabulary)
        rows.append(_repeated(options.repeats, "rerank, 2 x 100 documents of 48 words", server, rerank, vocabulary))
        seconds, own, workers = largest_request(server, sentences(7, 2048, 48, vocabulary))
        extra.append(
            f"2,048 texts of 48 words in one request, base64: {seconds:.1f} s; memory above rest at its peak: "
            f"server {own:.0f} MiB, worker {workers:.0f} MiB"
        )
        alone, beside = chat_gaps(server, n_vocab, vocabulary)
        extra.append(f"token gap of a chat stream, median: {alone:.1f} ms alone, {beside:.1f} ms beside 4 clients")
    finally:
        server.close()
        limit.close()
    print(f"\n{path.stem}, {options.threads} threads, medians of {options.repeats}\n")
    print("| work | limit, tokens/s | server, tokens/s | server / limit | wanted |\n|---|---|---|---|---|")
    print("\n".join([*map(str, rows), "", *extra]))


def _embedding_rows(
    limit: LimitProcess, server: Server, repeats: int, words: int, vocabulary: Sequence[str]
) -> list[Row]:
    rows = []
    for clients in CLIENTS:
        wanted = ">= 0.95" if words == 48 else ""
        row = Row(f"{TEXTS} texts of {words} words, {clients} client{'s' * (clients > 1)}", wanted=wanted)
        for repeat in range(repeats):
            texts = sentences(1000 * words + 10 * clients + repeat, TEXTS, words, vocabulary)
            for batch_tokens in BATCH_TOKENS:
                row.limit.setdefault(batch_tokens, []).append(limit.tokens_per_second(texts, batch_tokens))
            row.server.append(embed(server.port, texts, clients))
        rows.append(row)
    return rows


def _repeated(
    repeats: int,
    name: str,
    server: Server,
    measure: Callable[[int, Sequence[str]], float],
    vocabulary: Sequence[str],
) -> Row:
    figures = [measure(server.port, sentences(90 + k, 202, 48, vocabulary)) for k in range(repeats)]
    return Row(name, server=figures)


if __name__ == "__main__":
    main()
