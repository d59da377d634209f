"""The 20th turn of a session beside the same conversation sent in full: ``python -m benchmarks.sessions``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import client
from benchmarks.models import WORK
from benchmarks.processes import Server, start_server

DEMO = Path(__file__).parents[1] / "models" / "chat" / "localllm-demo.gguf"
TURNS = 20
OTHERS = 3
ANSWER_TOKENS = 24
SETTINGS = {"parallel": 1, "cached_sequences": 1}  # so that a few others are enough to push a conversation out

Message = dict[str, str]


def said(turn: int, kind: str) -> str:
    """Return what the user says: in no two kinds of conversation the same, or one would find what the other left."""
    return f"({kind}) My friend number {turn + 1} lives in Lisbon and has a dog. What is the capital of France?"


@dataclass(slots=True)
class Row:
    """First tokens in milliseconds, and how much of the prompt was cached, run by run."""

    name: str
    first_ms: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)

    def add(self, answer: client.Answer) -> None:
        """Take in one turn."""
        self.first_ms.append(1000 * answer.first)
        cached = answer.usage["prompt_tokens_details"]["cached_tokens"]
        self.cached.append(cached / answer.usage["prompt_tokens"])

    def __str__(self) -> str:
        return f"| {self.name} | {statistics.median(self.first_ms):.1f} | {statistics.median(self.cached):.0%} |"


@dataclass(slots=True)
class Conversation:
    """One conversation, either kept by the server or sent in full each time."""

    server: Server
    kind: str
    session_id: str | None
    messages: list[Message] = field(default_factory=list)

    async def say(self, turn: int) -> client.Answer:
        """Say something, and remember it with the answer."""
        new: Message = {"role": "user", "content": said(turn, self.kind)}
        if self.session_id is None:
            answer = await client.chat(self.server.port, [*self.messages, new], ANSWER_TOKENS)
        else:
            answer = await client.chat(self.server.port, [new], ANSWER_TOKENS, session_id=self.session_id)
        self.messages += [new, {"role": "assistant", "content": answer.text}]
        return answer


async def begin(server: Server, kind: str, *, kept: bool) -> Conversation:
    """Begin a conversation with 18 turns behind it, so that two more can be measured."""
    session_id = None
    if kept:
        _, body = await client.ask(server.port, "/v1/sessions", {})
        session_id = json.loads(body)["id"]
    conversation = Conversation(server, kind, session_id)
    for turn in range(TURNS - 2):
        await conversation.say(turn)
    return conversation


async def push_out(server: Server) -> None:
    """Have so many others ask that no conversation keeps its place in the cache."""
    for number in range(OTHERS):
        messages = [{"role": "user", "content": f"{number}. Something else altogether. " * 4}]
        await client.chat(server.port, messages, 2)


def measure(start: Callable[[], Server], rows: dict[str, list[Row]]) -> None:
    """Measure both kinds of conversation once, the server's restart included."""
    for kind, kept in (("session", True), ("sent in full", False)):
        in_cache, pushed_out, restarted = rows[kind]
        server = start()
        try:
            conversation = asyncio.run(begin(server, kind, kept=kept))
            in_cache.add(asyncio.run(conversation.say(TURNS - 2)))
            asyncio.run(push_out(server))
            pushed_out.add(asyncio.run(conversation.say(TURNS - 1)))
        finally:
            server.close()
        server = start()
        try:
            asyncio.run(push_out(server))  # the model is loaded, and somebody else was first
            conversation.server = server
            restarted.add(asyncio.run(conversation.say(TURNS)))
        finally:
            server.close()


def main() -> None:
    """Parse the command line, measure, print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sessions", description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=DEMO, help="a chat model; random weights don't spell as they read"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    model = WORK / "models" / "chat" / options.model.name
    model.parent.mkdir(parents=True, exist_ok=True)
    if not model.exists():
        model.symlink_to(options.model.resolve())
    shutil.rmtree(WORK / "state" / "conversations", ignore_errors=True)
    moments = ("others in between: none", "others in between: some", "after a restart of the server")
    kinds = ("session", "sent in full")
    rows = {kind: [Row(f"turn {TURNS}, {kind}, {moment}") for moment in moments] for kind in kinds}
    for _ in range(options.repeats):
        measure(lambda: start_server(model, options.threads, **SETTINGS), rows)
    print(f"\n{model.stem}, {options.threads} threads, medians of {options.repeats}\n")
    print("| work | first token, ms | cached |\n|---|---|---|")
    print("\n".join(str(row) for pair in zip(*rows.values(), strict=True) for row in pair))


if __name__ == "__main__":
    main()
