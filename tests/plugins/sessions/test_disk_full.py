"""A full disk refuses what is to be kept, keeps what was, and takes more as soon as there is space again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CHILD = [sys.executable, "-m", "tests.plugins.sessions.fill_disk"]


def with_small_disk(folder: Path, command: list[str]) -> list[str]:
    """Return the command that mounts 1 MB on a folder, seen by nobody else, and then runs ``command``."""
    script = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(folder), *command]


def may_mount(folder: Path) -> bool:
    """Say whether this system lets us have file systems of our own."""
    try:
        return subprocess.run(with_small_disk(folder, ["true"]), capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.process
@pytest.mark.parametrize("way", ["tmpfs", "rlimit", "max_bytes"])
def test_a_full_disk_refuses_and_loses_nothing(way: str, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = [*CHILD, way, str(folder)]
    if way == "tmpfs":
        # Where no user may mount anything the limit of the configuration stands in; SQLite says the same of both.
        command = with_small_disk(folder, command) if may_mount(folder) else [*CHILD, "max_bytes", str(folder)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert len(found["full"]) == 3
    assert all("is full" in message for message in found["full"])
    assert found["n_before"] > 5
    assert found["readable"]
    assert found["kept"]
