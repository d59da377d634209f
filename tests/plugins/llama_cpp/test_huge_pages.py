"""Weights that move into huge pages while a model serves: the same bytes at the same addresses."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from localllm import Clear, Plan, SamplingParams, SequenceKey, Slice
from localllm.testing.tiny_model import write_tiny_llama
from localllm_llama_cpp import huge_pages, loader
from localllm_llama_cpp.context import NativeModel
from localllm_llama_cpp.huge_pages import HugePages, mapped_spans, move, page_bytes
from localllm_llama_cpp.loader import LlamaModel
from localllm_llama_cpp.log import Buffer
from tests.loaded_models import LoadModel, LoadPooler, loading

MIB = 1024 * 1024


@pytest.fixture
def huge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on with the copies of files, however scattered and scarce the memory of this machine may be."""
    if page_bytes() != 2 * MIB:
        pytest.skip("this system has no huge pages of the usual size")
    monkeypatch.setattr(huge_pages, "_page_faults", lambda: 0)
    monkeypatch.setattr(huge_pages, "available_memory_bytes", lambda: 1 << 50)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights of a model.gguf"
    path.write_bytes(b"".join(number.to_bytes(4, "little") for number in range(5 * MIB)))
    return path


@pytest.fixture
def mapping(file: Path, huge: None) -> Iterator[mmap.mmap]:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        yield mapped


def backing(address: int) -> tuple[str, str]:
    """Return how an address may be used, and the file behind it: "" where it is the process's own memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access, _offset, _device, _inode, *name = line.split(maxsplit=5)
        start, end = (int(one, 16) for one in addresses.split("-"))
        if start <= address < end:
            return access, "".join(name)
    raise AssertionError("nothing is mapped there")


def test_all_of_a_file_but_its_ends_moves_and_reads_as_before(file: Path, mapping: mmap.mmap) -> None:
    (span,) = mapped_spans(file)
    assert len(span) == 20 * MIB
    moving = HugePages(file, moves_file=True, delay_seconds=0)
    moving.start()
    moving.wait()
    assert sum(map(len, mapped_spans(file))) < 4 * MIB
    assert mapping[:] == file.read_bytes()
    assert backing(span.start + len(span) // 2) == ("r--p", "")


def test_readers_notice_nothing_while_pages_move_under_them(file: Path, mapping: mmap.mmap) -> None:
    page = page_bytes()
    (span,) = mapped_spans(file)
    inner = range(-(-span.start // page) * page, span.stop // page * page)
    over, wrong = threading.Event(), []

    def read() -> None:
        numbers = (ctypes.c_uint32 * (len(span) // 4)).from_address(span.start)
        while not over.is_set():
            wrong.extend(index for index in range(0, len(numbers), 65_537) if numbers[index] != index)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for start in range(inner.start, inner.stop, page):
        move(range(start, start + page), page)
    over.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_allocations_are_gathered_in_place_and_those_never_touched_stay_so(tmp_path: Path, huge: None) -> None:
    if tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) < (6, 1):
        pytest.skip("this kernel gathers pages only by itself")
    with mmap.mmap(-1, 64 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as allocated:
        pattern = bytes(range(256)) * 4096
        for start in range(0, 24 * MIB, len(pattern)):
            allocated[start : start + len(pattern)] = pattern
        over, counted = threading.Event(), 0

        def write() -> None:
            nonlocal counted
            while not over.is_set():
                counted += 1
                allocated[5 * MIB : 5 * MIB + 8] = counted.to_bytes(8, "little")

        writer = threading.Thread(target=write)
        writer.start()
        gathering = HugePages(tmp_path / "no such file", moves_file=False, delay_seconds=0)
        gathering.start()
        gathering.wait()
        over.set()
        writer.join()
        assert gathering.moved_bytes >= 2 * MIB
        assert allocated[5 * MIB : 5 * MIB + 8] == counted.to_bytes(8, "little")
        assert all(allocated[at * MIB : (at + 1) * MIB] == pattern for at in range(24) if at != 5)
        assert resident_bytes(allocated) < 28 * MIB


def resident_bytes(allocated: mmap.mmap) -> int:
    """Return how much of an allocation is in memory, by ``mincore``."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(allocated))
    pages = (ctypes.c_ubyte * (len(allocated) // mmap.PAGESIZE))()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(allocated)), pages) == 0
    return mmap.PAGESIZE * sum(page & 1 for page in pages)


def test_closing_ends_it_in_the_middle(file: Path, mapping: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_SHARE", 1e-6)
    monkeypatch.setattr(huge_pages, "_CHUNK_BYTES", page_bytes())
    moved = threading.Event()

    def observed(span: range, page: int) -> None:
        move(span, page)
        moved.set()

    monkeypatch.setattr(huge_pages, "move", observed)
    moving = HugePages(file, moves_file=True, delay_seconds=0)
    moving.start()
    assert moved.wait(10)
    moving.close()
    assert moving.moved_bytes == page_bytes()
    assert mapping[:] == file.read_bytes()


@pytest.mark.parametrize("lacking", ["memory", "huge pages", "addresses", "overcommitment"])
def test_where_the_system_has_none_to_give_everything_stays(
    file: Path, mapping: mmap.mmap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    if lacking == "memory":
        monkeypatch.setattr(huge_pages, "available_memory_bytes", lambda: 10 * MIB)
    elif lacking == "huge pages":
        monkeypatch.setattr(huge_pages, "_page_faults", itertools.count(0, 2048).__next__)
    elif lacking == "addresses":
        monkeypatch.setattr(huge_pages, "_MREMAP_MAYMOVE_FIXED", -1)
    else:
        (tmp_path / "overcommit_memory").write_text("2\n")
        monkeypatch.setattr(huge_pages, "_OVERCOMMIT", tmp_path / "overcommit_memory")
    moving = HugePages(file, moves_file=True, delay_seconds=0)
    moving.start()
    moving.wait()
    left = sum(map(len, mapped_spans(file)))
    assert left == (12 * MIB if lacking == "huge pages" else 20 * MIB), "the first chunk tells"
    assert mapping[:] == file.read_bytes()


def test_memory_that_others_take_meanwhile_ends_it(
    file: Path, mapping: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "total_memory_bytes", lambda: 100 * MIB)
    monkeypatch.setattr(huge_pages, "available_memory_bytes", iter([30 * MIB, 21 * MIB]).__next__)
    moving = HugePages(file, moves_file=True, delay_seconds=0)
    moving.start()
    moving.wait()
    assert sum(map(len, mapped_spans(file))) == 12 * MIB


def test_all_parts_of_a_model_and_no_other_files_are_moved(tmp_path: Path, huge: None) -> None:
    names = ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf", "other.gguf"]
    with ExitStack() as stack:
        for name in names:
            (tmp_path / name).write_bytes(bytes(6 * MIB))
            opened = stack.enter_context((tmp_path / name).open("rb"))
            stack.enter_context(mmap.mmap(opened.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ))
        assert [len(span) for span in mapped_spans(tmp_path / names[0])] == [6 * MIB, 6 * MIB]
        assert [len(span) for span in mapped_spans(tmp_path / names[2])] == [6 * MIB]


def test_a_link_leads_to_the_file(file: Path, mapping: mmap.mmap, tmp_path: Path) -> None:
    folder = tmp_path / "another"
    folder.mkdir()
    assert mapped_spans(folder / "model.gguf") == []
    link = folder / "model.gguf"
    link.symlink_to(file)
    assert len(mapped_spans(link)) == 1


def answer(model: LlamaModel) -> list[int]:
    """Return what it writes at temperature 0."""
    decoder, prompt, key = model.decoder, tuple(range(10, 20)), SequenceKey("request", 0)
    decoder.open("request", SamplingParams(temperature=0), prompt)
    tokens: list[int] = []
    part = Slice(0, 0, prompt, (key,))
    for _ in range(60):
        decoder.submit(Plan(() if tokens else (Clear(0),), (part,)))
        (sampled,) = decoder.collect()[key]
        tokens.append(sampled.token)
        part = Slice(0, part.start + len(part.tokens), (sampled.token,), (key,))
    decoder.close("request")
    return tokens


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return write_tiny_llama(folder / "model.gguf", n_vocab=8000, n_embd=256, n_ff=512)


@pytest.fixture
def any_size_at_once(huge: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "SMALLEST_BYTES", 1)
    monkeypatch.setattr(loader, "HugePages", partial(HugePages, delay_seconds=0))


@pytest.mark.usefixtures("any_size_at_once")
def test_a_model_answers_the_same_before_while_and_after_it_moves(
    model_path: Path, load_model: LoadModel, tmp_path: Path
) -> None:
    staying = load_model(shutil.copy(model_path, tmp_path), huge_pages=False)
    expected = answer(staying)
    moving = load_model(model_path)
    while not moving.native.huge_pages.wait(0.01):
        assert answer(moving) == expected
    assert sum(map(len, mapped_spans(model_path))) < 4 * MIB
    assert answer(moving) == expected
    assert answer(staying) == expected


@pytest.mark.usefixtures("any_size_at_once")
@pytest.mark.parametrize("settings", [{"huge_pages": False}, {"mlock": True}])
def test_a_model_stays_where_its_settings_say_so(
    model_path: Path, load_model: LoadModel, settings: dict[str, bool]
) -> None:
    assert load_model(model_path, **settings).native.huge_pages is None


@pytest.mark.usefixtures("any_size_at_once")
def test_a_model_that_a_gpu_shares_stays(
    model_path: Path, load_model: LoadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "uses_gpu", lambda settings: True)
    assert load_model(model_path).native.huge_pages is None


@pytest.mark.usefixtures("any_size_at_once")
@pytest.mark.parametrize(("repacked", "moves"), [(0, True), (3 * MIB, False)])
def test_the_file_of_repacked_weights_is_not_moved(
    model_path: Path, load_model: LoadModel, monkeypatch: pytest.MonkeyPatch, repacked: int, moves: bool
) -> None:
    load_file = loader._load_file

    def load_and_repack(*arguments: Any) -> NativeModel:
        native = load_file(*arguments)
        if repacked:
            native.buffers += (Buffer("model", "CPU_REPACK", repacked),)
        return native

    monkeypatch.setattr(loader, "_load_file", load_and_repack)
    loaded = load_model(model_path)
    loaded.native.huge_pages.wait()
    assert (sum(map(len, mapped_spans(model_path))) < 4 * MIB) == moves
    assert len(answer(loaded)) == 60


def test_a_small_model_stays(model_path: Path, load_model: LoadModel) -> None:
    assert load_model(model_path).native.huge_pages is None


@pytest.mark.usefixtures("any_size_at_once")
def test_models_that_are_freed_while_they_move_leave_nothing_behind(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "_CHUNK_BYTES", 2 * MIB)
    copies = copied_spans()
    for _ in range(10):
        with loading() as load:
            moving = load(model_path).native.huge_pages
            while not moving.moved_bytes and not moving.wait(0.001):
                pass
    assert mapped_spans(model_path) == []
    assert copied_spans() <= copies


def copied_spans() -> set[range]:
    """Return the spans that are as copies are: of the process, large, and to be read only."""
    mappings = huge_pages._mappings()
    return {span for span, access, name in mappings if access == "r--p" and not name and len(span) >= 2 * MIB}


@pytest.mark.usefixtures("any_size_at_once")
def test_models_that_pool_move_too(model_path: Path, load_pooler: LoadPooler) -> None:
    moving = load_pooler(model_path, pooling="mean").native.huge_pages
    moving.wait()
    assert sum(map(len, mapped_spans(model_path))) < 4 * MIB


@pytest.mark.parametrize(
    ("enabled", "size"), [("always madvise [never]", "2097152"), ("[always] never", "536870912"), ("[always]", "much")]
)
def test_nothing_is_tried_where_huge_pages_are_off_or_too_large(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str, size: str
) -> None:
    (tmp_path / "enabled").write_text(f"{enabled}\n")
    (tmp_path / "hpage_pmd_size").write_text(f"{size}\n")
    monkeypatch.setattr(huge_pages, "_SYSTEM", tmp_path)
    moving = HugePages(file, moves_file=True, delay_seconds=0)
    moving.start()
    moving.close()
    assert (page_bytes(), moving.moved_bytes) == (0, 0)
