"""What is remembered of native builds survives restarts, and a damaged file costs nothing but the memory."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from localllm.host.safe_mode import SafeModeMemory


def test_a_build_is_remembered_across_restarts_and_a_new_build_is_not(tmp_path: Path) -> None:
    path = tmp_path / "state" / "safe_mode.json"
    assert not SafeModeMemory(path).holds("llama_cpp", "build-1")
    SafeModeMemory(path).add("llama_cpp", "build-1")
    SafeModeMemory(path).add("other", "build-2")
    memory = SafeModeMemory(path)
    assert memory.holds("llama_cpp", "build-1")
    assert memory.holds("other", "build-2")
    assert not memory.holds("llama_cpp", "build-2")
    assert not memory.holds("other", "build-1")


def test_the_file_is_its_owners_alone_and_nothing_else_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "safe_mode.json"
    SafeModeMemory(path).add("llama_cpp", "build-1")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"builds": 5}', '{"builds": [["a"]]}', "\x00"])
def test_a_damaged_file_is_reported_and_started_afresh(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "safe_mode.json"
    path.write_text(content)
    memory = SafeModeMemory(path)
    assert not memory.holds("llama_cpp", "build-1")
    assert str(path) in caplog.text
    memory.add("llama_cpp", "build-1")
    assert SafeModeMemory(path).holds("llama_cpp", "build-1")


def test_a_place_that_can_not_be_written_is_a_warning_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    memory = SafeModeMemory(blocker / "safe_mode.json")
    with caplog.at_level(logging.WARNING):
        memory.add("llama_cpp", "build-1")
    assert "for this run only" in caplog.text
    assert memory.holds("llama_cpp", "build-1")
