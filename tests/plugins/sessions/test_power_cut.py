"""When the power goes, whatever the disk made of what was not synced: every acknowledged turn is there, and whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from localllm.contract.sessions import StoredMessage, Turn
from tests.conftest import FULL
from tests.plugins.sessions.disk_image import cut
from tests.plugins.sessions.faulty_vfs import OK, Operation, watched
from tests.plugins.sessions.store_kit import opened

N_TURNS = 40
N_CUTS = 1000 if FULL else 60


@dataclass
class Recording:
    """All that happened to the files, and after how many operations each turn was acknowledged."""

    session_id: str = ""
    operations: list[Operation] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)

    def __call__(self, operation: Operation) -> int:
        self.operations.append(operation)
        return OK


def turn(number: int) -> Turn:
    """Return a turn of several pages, so that none is written in one piece."""
    return Turn(tuple({"role": "user", "content": f"{number}.{part} {'x' * 3000}"} for part in range(3)))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Forty turns, each synced on its own, with checkpoints in between, and a session that is deleted again."""
    found = Recording()

    async def run() -> None:
        async with opened(tmp_path_factory.mktemp("recorded") / "sessions.db") as store:
            session = await store.create("me", title="kept")
            found.session_id = session.id
            found.acknowledged.append(len(found.operations))
            for number in range(N_TURNS):
                await store.append("me", session.id, turn(number), after=3 * number)
                found.acknowledged.append(len(found.operations))
                if number % 10 == 5:
                    large = Turn(({"role": "user", "content": "y" * 1_500_000},))
                    await store.delete("me", (await store.create("me", turns=[large])).id)

    with watched(found):
        asyncio.run(run())
    return found


def test_the_recording_has_checkpoints_and_one_sync_per_turn(recording: Recording) -> None:
    into_the_file = [one for one in recording.operations if one.path.name == "sessions.db" and one.kind == "write"]
    assert len(into_the_file) > 500
    for before, after in zip(recording.acknowledged, recording.acknowledged[1:], strict=False):
        synced = [one.path.name for one in recording.operations[before:after] if one.kind == "sync"]
        assert "sessions.db-wal" in synced


@pytest.mark.parametrize("part", range(10))
def test_no_power_cut_loses_an_acknowledged_turn(recording: Recording, part: int, tmp_path: Path) -> None:
    random = Random(part)
    ready = recording.acknowledged[0]
    for number in range(N_CUTS // 10):
        # Right before something is synced is where most is at stake.
        n_done = random.randrange(ready, len(recording.operations) + 1)
        if random.random() < 0.5:
            n_done = next(
                (at for at in range(n_done, len(recording.operations)) if recording.operations[at].kind == "sync"),
                n_done,
            )
        folder = tmp_path / str(number)
        folder.mkdir()
        cut(recording.operations[:n_done], folder, random)
        n_acknowledged = sum(1 for at in recording.acknowledged[1:] if at <= n_done)
        kept = asyncio.run(_read(folder / "sessions.db", recording.session_id))
        assert len(kept) % 3 == 0, f"half a turn after {n_done} operations"
        assert n_acknowledged <= len(kept) // 3 <= n_acknowledged + 1, f"after {n_done} operations"
        expected = [message for index in range(len(kept) // 3) for message in turn(index).messages]
        assert [one.message for one in kept] == expected


async def _read(path: Path, session_id: str) -> Sequence[StoredMessage]:
    async with opened(path) as store:  # which looks through the whole file first
        return await store.messages("me", session_id, limit=1000)
