"""Files of conversations: whole or not there, private, bounded, and believed only to the bit."""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from localllm.contract.decoder import StateSaving
from localllm.engine.keeping import Conversation
from localllm.worker import state_files
from localllm.worker.state_files import FolderStateFiles

SAVING = StateSaving(ram_bytes=0, bytes_per_token=8, disk_bytes=10_000, identity="model and settings")
STATE = bytes(range(256)) * 4
TALK = Conversation("owner", "group", tuple(range(40)), 30)


def on_time() -> bool:
    return False


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def talk(first: int, length: int = 40, owner: str = "owner") -> Conversation:
    return Conversation(owner, "group", tuple(range(first, first + length)), 30)


def test_what_is_written_is_found_by_the_next_worker(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert FolderStateFiles(folder, SAVING).write(TALK, STATE, on_time)
    files = FolderStateFiles(folder, SAVING)
    [(name, found)] = files.index()
    assert (found.owner, found.group, tuple(found.tokens), found.prompt_length) == ("owner", "group", TALK.tokens, 30)
    assert files.read(name) == STATE
    assert files.read(name) == STATE, "it stays"


def test_folder_and_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    folder.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        FolderStateFiles(folder, SAVING).write(TALK, STATE, on_time)
    finally:
        os.umask(before)
    [file] = files_in(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_others_can_read_is_not_believed(tmp_path: Path) -> None:
    FolderStateFiles(tmp_path, SAVING).write(TALK, STATE, on_time)
    [file] = files_in(tmp_path)
    file.chmod(0o640)
    assert FolderStateFiles(tmp_path, SAVING).index() == []
    assert files_in(tmp_path) == []


def test_links_are_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FolderStateFiles(tmp_path / "states", SAVING).write(TALK, STATE, on_time)
    [file] = files_in(tmp_path / "states")
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert FolderStateFiles(tmp_path / "states", SAVING).index() == []
    assert "can't be read" in capsys.readouterr().err
    (tmp_path / "linked").symlink_to(tmp_path / "states")
    assert not FolderStateFiles(tmp_path / "linked", SAVING).write(TALK, STATE, on_time)


@pytest.mark.parametrize("region", range(20))
def test_a_flipped_bit_anywhere_is_noticed_and_the_file_goes(tmp_path: Path, region: int) -> None:
    FolderStateFiles(tmp_path, SAVING).write(TALK, STATE, on_time)
    [file] = files_in(tmp_path)
    whole = file.read_bytes()
    for place in {region * (len(whole) - 1) // 19, region, region * 4}:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (region % 8)
        file.write_bytes(flipped)
        files = FolderStateFiles(tmp_path, SAVING)
        assert [files.read(name) for name, _ in files.index()] in ([], [None])
        assert not file.exists()
        file.write_bytes(whole)
        file.chmod(0o600)


@pytest.mark.parametrize("keep", [0, 1, 63, 64, 65, 200, 900, -1])
def test_a_truncated_file_and_a_longer_one_are_no_use(tmp_path: Path, keep: int) -> None:
    FolderStateFiles(tmp_path, SAVING).write(TALK, STATE, on_time)
    [file] = files_in(tmp_path)
    whole = file.read_bytes()
    for wrong in (whole[:keep], whole + b"x"):
        file.write_bytes(wrong)
        file.chmod(0o600)
        assert FolderStateFiles(tmp_path, SAVING).index() == []
        assert not file.exists()


def test_a_file_that_changes_between_looking_and_reading_is_no_use(tmp_path: Path) -> None:
    files = FolderStateFiles(tmp_path, SAVING)
    files.write(TALK, STATE, on_time)
    [(name, _)] = files.index()
    files.write(talk(100), STATE, on_time)
    [other] = [file for file in files_in(tmp_path) if file.name != name]
    shutil.copy2(other, tmp_path / name)
    assert files.read(name) is None, "the tokens are of another conversation"
    assert files.read("never there") is None
    (tmp_path / other.name).unlink()
    assert files.read(other.name) is None


def test_states_of_other_models_and_settings_are_invisible_and_stay(tmp_path: Path) -> None:
    FolderStateFiles(tmp_path, SAVING).write(TALK, STATE, on_time)
    other = StateSaving(0, 8, disk_bytes=10_000, identity="other settings")
    files = FolderStateFiles(tmp_path, other)
    assert files.index() == []
    files.write(TALK, STATE, on_time)
    assert len(files_in(tmp_path)) == 2
    [mine] = [file for file in files_in(tmp_path) if file.name == FolderStateFiles(tmp_path, SAVING).index()[0][0]]
    [theirs] = [file for file in files_in(tmp_path) if file != mine]
    renamed = theirs.rename(mine.with_name(mine.name[:16] + "-0000.state"))
    assert [name for name, _ in FolderStateFiles(tmp_path, SAVING).index()] == [mine.name]
    assert not renamed.exists()


def test_the_least_recently_used_go_whoever_has_them(tmp_path: Path) -> None:
    size = _file_bytes(tmp_path)
    folder = tmp_path / "states"
    saving = StateSaving(0, 8, disk_bytes=3 * size + 10, identity=SAVING.identity)
    other = StateSaving(0, 8, disk_bytes=3 * size + 10, identity="model or settings")
    FolderStateFiles(folder, other).write(talk(0), STATE, on_time)
    for first in (100, 200):
        FolderStateFiles(folder, saving).write(talk(first), STATE, on_time)
    _set_age(folder, saving, {100: 30, 200: 20})
    again = FolderStateFiles(folder, saving)
    [name] = [name for name, found in again.index() if found.tokens[0] == 100]
    assert again.read(name) == STATE  # used just now
    again.write(talk(300), STATE, on_time)
    assert _first_tokens(folder, saving) == {100, 300}
    assert len(FolderStateFiles(folder, other).index()) == 1
    small = StateSaving(0, 8, disk_bytes=size + 10, identity=SAVING.identity)
    assert len(FolderStateFiles(folder, small).index()) == 1


def test_what_was_written_just_now_does_not_give_way_to_what_is_older(tmp_path: Path) -> None:
    saving = StateSaving(0, 8, disk_bytes=2 * _file_bytes(tmp_path), identity=SAVING.identity)
    files = FolderStateFiles(tmp_path / "states", saving)
    assert [files.write(talk(first), STATE, on_time) for first in (100, 200, 300)] == [True, True, False]
    assert _first_tokens(tmp_path / "states", saving) == {100, 200}


def test_a_state_larger_than_all_files_may_be_costs_no_other_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    saving = StateSaving(0, 8, disk_bytes=3 * _file_bytes(tmp_path), identity=SAVING.identity)
    FolderStateFiles(folder, saving).write(talk(100), STATE, on_time)
    files = FolderStateFiles(folder, saving)
    assert files.write(talk(200), STATE * 4, on_time), "others may well be smaller"
    assert files.write(talk(300), STATE, on_time)
    assert _first_tokens(folder, saving) == {100, 300}


def test_nothing_gives_way_to_what_has_no_room_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    saving = StateSaving(0, 8, disk_bytes=3 * _file_bytes(tmp_path), identity=SAVING.identity)
    FolderStateFiles(folder, saving).write(talk(100), STATE, on_time)
    files = FolderStateFiles(folder, saving)
    assert files.write(talk(200), STATE, on_time)
    assert not files.write(talk(300), STATE * 3, on_time), "what was just written stays, and leaves too little"
    assert _first_tokens(folder, saving) == {100, 200}


def test_a_conversation_that_went_on_replaces_what_it_was(tmp_path: Path) -> None:
    files = FolderStateFiles(tmp_path, SAVING)
    files.write(talk(0, 40), STATE, on_time)
    files.write(talk(0, 40, owner="somebody else"), STATE, on_time)
    files.write(talk(0, 60), STATE, on_time)
    assert files.write(talk(0, 50), STATE, on_time), "it is there already"
    lengths = {(found.owner, len(found.tokens)) for _, found in FolderStateFiles(tmp_path, SAVING).index()}
    assert lengths == {("owner", 60), ("somebody else", 40)}


def test_a_file_that_another_worker_removed_is_written_again(tmp_path: Path) -> None:
    FolderStateFiles(tmp_path, SAVING).write(TALK, STATE, on_time)
    files = FolderStateFiles(tmp_path, SAVING)
    [file] = files_in(tmp_path)
    file.unlink()
    assert files.write(TALK, STATE, on_time)
    assert len(FolderStateFiles(tmp_path, SAVING).index()) == 1


def test_writing_that_takes_too_long_leaves_nothing_behind(tmp_path: Path) -> None:
    calls = iter([False, True])
    big = bytes(6 * 1024 * 1024)
    saving = StateSaving(0, 8, disk_bytes=10**8, identity=SAVING.identity)
    assert not FolderStateFiles(tmp_path, saving).write(TALK, big, lambda: next(calls))
    assert files_in(tmp_path) == []


def test_what_was_not_finished_and_what_is_old_is_cleared_away(tmp_path: Path) -> None:
    FolderStateFiles(tmp_path, SAVING).write(TALK, STATE, on_time)
    [file] = files_in(tmp_path)
    (tmp_path / "now.part").touch()
    (tmp_path / "then.part").touch()
    long_ago = time.time() - state_files.MAX_AGE_SECONDS - 100
    for old in (file, tmp_path / "then.part"):
        os.utime(old, (long_ago, long_ago))
    (tmp_path / "README").touch()
    assert FolderStateFiles(tmp_path, SAVING).index() == []
    assert [path.name for path in files_in(tmp_path)] == ["README", "now.part"]


def test_a_folder_that_can_not_be_used_is_a_sentence_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    files = FolderStateFiles(tmp_path / "file", SAVING)
    assert files.index() == []
    assert not files.write(TALK, STATE, on_time)
    assert "can't be used" in capsys.readouterr().err


def test_a_full_disk_costs_the_conversation_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = FolderStateFiles(tmp_path, SAVING)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not files.write(TALK, STATE, on_time)
    assert "No space left" in capsys.readouterr().err
    assert files_in(tmp_path) == []
    monkeypatch.undo()
    nearly_full = shutil.disk_usage(tmp_path)._replace(free=state_files.FREE_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nearly_full)
    assert not files.write(TALK, STATE, on_time)
    assert files_in(tmp_path) == []


def _file_bytes(tmp_path: Path) -> int:
    folder = tmp_path / "measured"
    FolderStateFiles(folder, SAVING).write(talk(100), STATE, on_time)
    return files_in(folder)[0].stat().st_size


def _set_age(folder: Path, saving: StateSaving, seconds: dict[int, float]) -> None:
    for name, found in FolderStateFiles(folder, saving).index():
        then = time.time() - seconds[found.tokens[0]]
        os.utime(folder / name, (then, then))


def _first_tokens(folder: Path, saving: StateSaving) -> set[int]:
    return {found.tokens[0] for _, found in FolderStateFiles(folder, saving).index()}
