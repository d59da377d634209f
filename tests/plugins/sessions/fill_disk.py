"""Fills the disk under a store, frees space, goes on, and writes as JSON what it saw: ``fill_disk.py WAY FOLDER``.

``WAY`` is what is full: ``tmpfs``, a file system of 1 MB; ``rlimit``, the largest file that this process may write;
``max_bytes``, what the configuration lets the file take.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path

from localllm.contract.sessions import Session, SessionStorageFullError
from localllm.testing.store_kit import texts_of, turn_of
from tests.plugins.sessions.store_kit import opened

LIMIT_BYTES = 600_000
TEXT = "x" * 5000


async def fill(way: str, folder: Path) -> dict[str, object]:
    ballast = folder / "ballast"
    if way == "tmpfs":
        ballast.write_bytes(bytes(400_000))
    async with opened(folder / "sessions.db", max_bytes=LIMIT_BYTES if way == "max_bytes" else 0) as store:
        spare = await store.create("me", turns=[turn_of(*[TEXT] * 20)])
        session = await store.create("me")
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if way == "rlimit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, hard))
        full: list[str] = []
        while len(full) < 3:  # full stays full
            try:
                session = await append(store, session)
            except SessionStorageFullError as error:
                full.append(error.message)
        n_before = session.n_messages
        readable = texts_of(await store.messages("me", session.id, limit=1000))
        assert await store.get("me", session.id) == session
        if way == "tmpfs":
            ballast.unlink()
        elif way == "rlimit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        else:
            await store.delete("me", spare.id)  # its pages are used again
        for _ in range(3):
            session = await append(store, session)
    async with opened(folder / "sessions.db") as store:  # which looks through the whole file first
        kept = texts_of(await store.messages("me", session.id, limit=1000))
    return {
        "full": full,
        "n_before": n_before,
        "readable": readable == said(n_before),
        "kept": kept == said(n_before + 3),
    }


async def append(store: object, session: Session) -> Session:
    turn = turn_of(f"{session.n_messages} {TEXT}")
    return await store.append("me", session.id, turn, after=session.n_messages)  # type: ignore[attr-defined,no-any-return]


def said(n_messages: int) -> list[str]:
    return [f"{number} {TEXT}" for number in range(n_messages)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(fill(sys.argv[1], Path(sys.argv[2])))))
