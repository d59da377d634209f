"""A server that is killed while clients talk to it: every turn whose answer arrived whole is remembered after."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx
import pytest

from localllm.contract.sessions import SessionNotFoundError
from localllm_sessions.sqlite_database import Database, DatabaseOptions
from localllm_sessions.sqlite_store import SqliteStore
from tests.conftest import FULL

ROOT = Path(__file__).parents[2]
N_KILLS = 10 if FULL else 3

pytestmark = pytest.mark.process


@dataclass
class Client:
    """Somebody who talks on and on, and remembers which answers arrived to their last byte."""

    name: str
    session_id: str = ""
    n_sent: int = 0
    n_complete: int = 0

    async def talk(self, url: str, heard: asyncio.Queue[None]) -> None:
        """Go on until the server is gone; each line that arrives is put into ``heard``."""
        try:
            async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
                while True:
                    body = {
                        "messages": [{"role": "user", "content": f"{self.name} {self.n_complete}"}],
                        "session_id": self.session_id or "new",
                        "stream": True,
                    }
                    self.n_sent = self.n_complete + 1
                    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                        assert response.status_code == 200, await response.aread()
                        async for line in response.aiter_lines():
                            heard.put_nowait(None)
                            self._hear(line)
        except httpx.HTTPError:
            return

    def _hear(self, line: str) -> None:
        if line == "data: [DONE]":
            self.n_complete = self.n_sent
        elif line.startswith("data: "):
            self.session_id = json.loads(line.removeprefix("data: ")).get("session_id", self.session_id)


async def start(folder: Path) -> tuple[Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.process.session_server", str(folder), cwd=ROOT, stdout=PIPE
    )
    assert process.stdout is not None
    banner = (await process.stdout.readline()).decode()
    return process, f"http://127.0.0.1:{banner.split('://')[1].split()[0].rsplit(':', 1)[1]}"


async def kill_at_random(folder: Path, clients: list[Client], random: Random) -> None:
    """Start the server, let the clients talk, and kill it after a random number of lines of theirs."""
    process, url = await start(folder)
    heard: asyncio.Queue[None] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.talk(url, heard))
        for _ in range(random.randrange(20, 300)):
            await heard.get()
        process.kill()
    await process.communicate()


async def check(folder: Path, clients: list[Client]) -> None:
    path = folder / "state/plugins/sessions/sessions.db"
    store = SqliteStore(Database(DatabaseOptions(path), logging.getLogger("sessions")))
    async with store.opened(check_seconds=None):  # which looks through the whole file first
        for client in clients:
            try:
                kept = await store.messages("", client.session_id, limit=10_000)
            except SessionNotFoundError:  # killed before its first answer was complete
                kept, client.session_id = [], ""
            assert client.n_complete <= len(kept) / 2 <= client.n_sent
            for number, (said, answer) in enumerate(zip(kept[::2], kept[1::2], strict=True)):
                assert said.message == {"role": "user", "content": f"{client.name} {number}"}
                assert answer.message["content"] == "Hello there"
            client.n_complete = len(kept) // 2  # what was kept though nobody heard of it


def test_a_server_that_is_killed_remembers_every_complete_answer(tmp_path: Path) -> None:
    async def run() -> None:
        random = Random(7)
        clients = [Client(name) for name in ("ann", "ben", "cid")]
        for _ in range(N_KILLS):
            await kill_at_random(tmp_path, clients, random)
            await check(tmp_path, clients)
        assert sum(client.n_complete for client in clients) > N_KILLS

    asyncio.run(run())
