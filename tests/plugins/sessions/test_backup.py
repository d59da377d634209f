"""``localllm sessions backup``: a sound copy for its owner alone, made while the server writes."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from localllm.cli import app
from localllm.testing.store_kit import exchange, texts_of
from localllm_sessions.sqlite_backup import back_up
from localllm_sessions.sqlite_faults import StoreStartError
from tests.plugins.sessions.store_kit import opened


def backup(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the command with a configuration whose state lies in ``folder``; return exit code and output."""
    config = folder / "localllm.toml"
    config.write_text('state_directory = "state"\n', encoding="utf-8")
    done = CliRunner().invoke(app, ["sessions", "--config", str(config), *arguments])
    return done.exit_code, done.output


def test_a_backup_of_a_store_in_use_can_be_put_in_its_place(tmp_path: Path) -> None:
    path, copy = tmp_path / "state/plugins/sessions/sessions.db", tmp_path / "copy.db"

    async def run() -> str:
        async with opened(path) as store:
            session = await store.create("me", turns=[exchange(0)])
            writing = asyncio.create_task(store.append("me", session.id, exchange(1), after=2))
            before = os.umask(0)
            try:
                code, output = await asyncio.to_thread(backup, tmp_path, "backup", str(copy))
            finally:
                os.umask(before)
            assert code == 0, output
            assert f"{copy}: {(await asyncio.to_thread(copy.stat)).st_size} bytes." in output
            await writing
            await store.append("me", session.id, exchange(2), after=4)
            return session.id

    session_id = asyncio.run(run())
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("copy")] == ["copy.db"]

    async def restore() -> None:
        copy.rename(path)
        async with opened(path) as store:
            kept = texts_of(await store.messages("me", session_id, limit=10))
            assert kept[:2] == ["question 0", "answer 0"]
            assert kept[2:] in ([], ["question 1", "answer 1"])
            await store.append("me", session_id, exchange(3), after=len(kept))

    asyncio.run(restore())


def test_a_store_that_nobody_has_open_can_be_backed_up_too(tmp_path: Path) -> None:
    async def run(path: Path) -> None:
        async with opened(path) as store:
            await store.create("me", title="kept")

    path = tmp_path / "state/plugins/sessions/sessions.db"
    asyncio.run(run(path))
    code, output = backup(tmp_path, "backup", str(tmp_path / "copy.db"))
    assert code == 0
    assert f"move {path}-wal and {path.name}-shm away" in output, "an old log would be played into the copy"
    assert sorted(file.name for file in path.parent.iterdir()) == ["sessions.db", "sessions.db.lock"]


def test_backups_that_can_not_be(tmp_path: Path) -> None:
    path, copy = tmp_path / "state/plugins/sessions/sessions.db", tmp_path / "copy.db"
    code, output = backup(tmp_path, "backup", str(copy))
    assert (code, "there are no conversations yet" in output) == (1, True)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 1000)
    code, output = backup(tmp_path, "backup", str(copy))
    assert (code, "is damaged" in output) == (1, True)
    assert not list(tmp_path.glob("copy*"))
    copy.touch()
    code, output = backup(tmp_path, "backup", str(copy))
    assert (code, "exists already; name another file" in output) == (1, True)
    with pytest.raises(StoreStartError, match="can't be written: No such file"):
        back_up(path, tmp_path / "nowhere" / "copy.db")


def test_commands_are_those_of_enabled_plugins(tmp_path: Path) -> None:
    assert "backup" in backup(tmp_path, "--help")[1]
    code, output = backup(tmp_path, "no-such-command")
    assert (code, "No such command" in output) == (2, True)
    code, output = backup(tmp_path, "--set", "plugins.enabled=chat,llama_cpp", "backup", "x")
    assert (code, "the plugin 'sessions' is not enabled" in output) == (2, True)
    done = CliRunner().invoke(app, ["no-such-plugin"])
    assert (done.exit_code, "No such command" in done.output) == (2, True)
