"""What changes on disk is noticed soon, and looking costs next to nothing while nothing changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.errors import ModelFileError, ModelNotFoundError
from localllm.models import headers, listing
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.models.headers import stamp
from localllm.models.stores import Store
from tests.models.clock import Clock
from tests.models.raw_gguf import STRING, RawGguf, architecture


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose headers are read, in order."""
    names: list[str] = []
    real = headers.read_header
    monkeypatch.setattr(headers, "read_header", lambda path: names.append(path.name) or real(path))
    return names


@pytest.fixture
def stats(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths whose stamps are taken, in order."""
    paths: list[Path] = []

    def counted(path: Path) -> Any:
        paths.append(path)
        return stamp(path)

    for module in (
        "localllm.models.catalog",
        "localllm.models.listing",
        "localllm.models.headers",
        "localllm.models.survey",
    ):
        monkeypatch.setattr(f"{module}.stamp", counted)
    return paths


def catalog(directory: Path, clock: Clock | None = None, **options: Any) -> Catalog:
    return Catalog(CatalogOptions(directory, "engine", **{"look_seconds": 0, **options}), clock or Clock())


def ids(found: Catalog) -> list[str]:
    return list(found.specs())


def test_the_disk_is_looked_at_again_after_a_moment(tmp_path: Path, stats: list[Path]) -> None:
    clock = Clock()
    found = catalog(tmp_path, clock, look_seconds=0.2)
    RawGguf().write(tmp_path / "m.gguf")
    found.specs()
    stats.clear()
    for _ in range(5):
        found.specs(), found.default, found.problems
    assert stats == []
    clock.now += 0.2
    ids(found)
    assert stats != []
    clock.settle()
    assert "m" in ids(found)


def test_the_pause_between_looks_is_short_enough() -> None:
    """A file is to show up within two seconds."""
    assert CatalogOptions(Path(), None).look_seconds + listing.SETTLE_SECONDS <= 2.5
    assert CatalogOptions(Path(), None).look_seconds <= 0.5


def test_a_name_that_nobody_has_makes_it_look_at_once(tmp_path: Path) -> None:
    found = catalog(tmp_path, look_seconds=60)
    with pytest.raises(ModelNotFoundError):
        found.resolve("m")
    RawGguf().write(tmp_path / "m.gguf")
    assert found.resolve("m").id == "m"


def test_without_a_change_nothing_is_read_or_listed(tmp_path: Path, stats: list[Path], reads: list[str]) -> None:
    """One stat for each file and each folder, and nothing else."""
    for number in range(100):
        RawGguf().write(tmp_path / "chat" / f"m{number}.gguf")
    clock = Clock()
    found = catalog(tmp_path, clock)
    clock.now += 10
    found.specs()  # once more, for what may have hidden in the clock's last tick
    reads.clear()
    stats.clear()
    found.specs()
    assert len(stats) == 100 + 4
    assert reads == []


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    path = RawGguf().write(tmp_path / "m.gguf")
    found = catalog(tmp_path)
    first = path.stat()
    new = RawGguf().with_pairs(general__name=(STRING, "Miny")).write(tmp_path / "new")
    os.utime(new, ns=(first.st_atime_ns, first.st_mtime_ns))
    assert new.stat().st_size == first.st_size
    new.replace(path)
    assert found.specs()["m"].meta["name"] == "Miny"


def test_a_whole_folder_that_comes_later(tmp_path: Path) -> None:
    found = catalog(tmp_path / "models")
    assert ids(found) == []
    RawGguf().write(tmp_path / "models" / "embedding" / "own" / "m.gguf")
    assert ids(found) == ["m"]
    (tmp_path / "models").rename(tmp_path / "gone")
    assert ids(found) == []


def test_a_link_whose_file_comes_later(tmp_path: Path) -> None:
    chat = tmp_path / "models" / "chat"
    chat.mkdir(parents=True)
    (chat / "m.gguf").symlink_to(tmp_path / "disk" / "m.gguf")
    found = catalog(tmp_path / "models")
    assert ids(found) == []
    RawGguf().write(tmp_path / "disk" / "m.gguf")
    assert ids(found) == ["m"], "whoever fills the folder may point elsewhere"


def test_links_in_circles_and_named_pipes_do_no_harm(tmp_path: Path) -> None:
    chat = tmp_path / "chat"
    chat.mkdir()
    (chat / "circle.gguf").symlink_to(chat / "circle.gguf")
    (chat / "deep").symlink_to(chat)
    os.mkfifo(chat / "pipe.gguf")
    os.mkfifo(tmp_path / "named.gguf")
    RawGguf().write(chat / "good.gguf")
    found = catalog(tmp_path, files=(tmp_path / "named.gguf",))
    assert ids(found) == ["good"]
    assert any("no regular file" in problem for problem in found.problems)


def test_a_change_within_one_tick_of_the_file_systems_clock(tmp_path: Path) -> None:
    """The folder's time is the same before and after: it is listed once more when that time is over."""
    clock = Clock()
    RawGguf().write(tmp_path / "chat" / "a.gguf")
    found = catalog(tmp_path, clock)
    before = (tmp_path / "chat").stat()
    RawGguf().write(tmp_path / "chat" / "b.gguf")
    os.utime(tmp_path / "chat", ns=(before.st_atime_ns, before.st_mtime_ns))
    clock.settle()
    assert ids(found) == ["a", "b"]


def add_unseen(folder: Path, name: str) -> None:
    """Put a file into a folder whose time stays the same, as within one tick of the clock."""
    before = folder.stat()
    RawGguf().write(folder / name)
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_pulled_file_is_noticed_at_once_even_within_such_a_tick(tmp_path: Path) -> None:
    RawGguf().write(tmp_path / "chat" / "a.gguf")
    found = catalog(tmp_path, look_seconds=1e9)
    add_unseen(tmp_path / "chat", "b.gguf")
    assert ids(found) == ["a"]
    found.look("b")
    assert ids(found) == ["a", "b"]
    add_unseen(tmp_path / "chat", "c.gguf")
    assert found.resolve("c").id == "c", "nor does a request for it fail"


def test_names_that_nobody_has_cost_no_listings_once_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RawGguf().write(tmp_path / "chat" / "a.gguf")
    clock = Clock()
    found = catalog(tmp_path, clock)
    for _ in range(5):
        clock.now += listing.SETTLE_SECONDS / 4
        with pytest.raises(ModelNotFoundError):
            found.resolve("b")
    monkeypatch.setattr(listing.os, "scandir", lambda path: pytest.fail("a folder was listed"))
    with pytest.raises(ModelNotFoundError):
        found.resolve("b")


def test_a_pulled_model_is_read_whatever_else_is_still_to_be_read(tmp_path: Path) -> None:
    clock = Clock(tick=10)  # no time for a second header
    found = catalog(tmp_path / "models", clock, stores=(store_of(tmp_path / "store", 9),), look_seconds=1e9)
    RawGguf().write(tmp_path / "models" / "chat" / "z.gguf")
    found.look("z")
    assert "z" in ids(found)
    assert len(ids(found)) < 10


def test_a_file_that_is_being_copied_is_not_read_again_and_again(tmp_path: Path, reads: list[str]) -> None:
    content = RawGguf().bytes()
    path = tmp_path / "m.gguf"
    path.write_bytes(content[:-400])
    found = catalog(tmp_path)
    for length in (-300, -200, -100):
        with path.open("ab") as file:
            file.write(content[length - 100 : length])
        assert ids(found) == []
    assert reads == ["m.gguf"]
    with pytest.raises(ModelFileError, match="still being copied"):
        found.resolve("m")
    with path.open("ab") as file:
        file.write(content[-100:])
    assert ids(found) == ["m"]


# --- large stores ----------------------------------------------------------------------------------------------------


def store_of(directory: Path, count: int) -> Store:
    for number in range(count):
        RawGguf().write(directory / "org" / "repo" / f"m{number:02}.gguf")
    return Store("lmstudio", directory, "lmstudio")


def test_the_start_does_not_wait_for_all_headers_of_a_store(tmp_path: Path, reads: list[str]) -> None:
    clock = Clock(tick=0.5)  # each look at the clock, and so each header, takes half a second
    RawGguf().write(tmp_path / "models" / "own.gguf")
    found = catalog(tmp_path / "models", clock, stores=(store_of(tmp_path / "store", 20),), look_seconds=100)
    clock.tick = 0.0
    assert reads[0] == "own.gguf"
    assert 1 < len(reads) < 20
    assert found.problems == (f"{21 - len(reads)} models were not read yet; they appear one after the other",)
    clock.now += 100
    assert len(ids(found)) == 21
    assert found.problems == ()
    assert len(reads) == len(set(reads)) == 21


def test_a_model_that_was_not_read_yet_is_read_when_it_is_wanted(tmp_path: Path, reads: list[str]) -> None:
    clock = Clock(tick=10)
    found = catalog(tmp_path / "models", clock, stores=(store_of(tmp_path / "store", 9),), look_seconds=0)
    assert len(reads) == 1
    assert found.resolve("org/repo:m08").id == "org/repo:m08"
    assert "m08.gguf" in reads
    assert len(reads) < 9


def test_refresh_reads_everything(tmp_path: Path) -> None:
    found = catalog(tmp_path / "models", Clock(tick=10), stores=(store_of(tmp_path / "store", 9),))
    found.refresh()
    found.options = CatalogOptions(tmp_path / "models", "engine", look_seconds=1e9)
    assert len(found.specs()) == 9


def test_our_own_folder_is_read_to_the_end_at_the_start(tmp_path: Path) -> None:
    for number in range(9):
        architecture("bert").write(tmp_path / f"m{number}.gguf")
    assert len(catalog(tmp_path, Clock(tick=10), look_seconds=1e9).specs()) == 9
