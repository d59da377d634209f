"""Crafted and mutated files: reading the catalogue gives a typed error or a model, in little time and memory."""

from __future__ import annotations

import random
import resource
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.errors import ModelFileError
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.models.gguf import MAX_KEYS_BYTES, MAX_STRINGS, read_header
from localllm.testing.tiny_model import write_tiny_llama
from tests.conftest import FULL
from tests.models.crafted import CRAFTED, LISTED, REFUSED
from tests.models.mutations import mutate
from tests.models.raw_gguf import ARRAY, STRING, U8, RawGguf, parse, text

MB = 1_000_000
DEMO = Path(__file__).resolve().parents[2] / "models" / "chat" / "localllm-demo.gguf"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_llama(tmp_path_factory.mktemp("good") / "good.gguf").read_bytes()


def catalog(directory: Path) -> Catalog:
    return Catalog(CatalogOptions(directory, "engine", look_seconds=0))


def test_there_are_enough_of_them(good: bytes) -> None:
    assert len(CRAFTED) >= 36
    assert parse(good).bytes() == good, "what is not changed stays as it is"
    for name, craft in CRAFTED.items():
        assert craft(good) != good, name


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_reader_refuses_is_a_typed_error_that_names_the_file(tmp_path: Path, good: bytes, name: str) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / f"{name}.gguf").write_bytes(REFUSED[name](good))
    (tmp_path / "chat" / "good.gguf").write_bytes(good)
    found = catalog(tmp_path)
    assert list(found.specs()) == ["good"]
    (problem,) = found.problems
    assert problem.startswith(f"{name}.gguf: ")
    assert len(problem) < 400
    with pytest.raises(ModelFileError):
        found.resolve(name)


@pytest.mark.parametrize("name", LISTED)
def test_what_only_the_engine_finds_out_is_listed(tmp_path: Path, good: bytes, name: str) -> None:
    (tmp_path / f"{name}.gguf").write_bytes(LISTED[name](good))
    found = catalog(tmp_path)
    assert (list(found.specs()), found.problems) == ([name], ())


def test_all_of_them_take_little_memory(tmp_path: Path, good: bytes) -> None:
    for name, craft in CRAFTED.items():
        (tmp_path / f"{name}.gguf").write_bytes(craft(good))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        catalog(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * MB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def many_tags() -> bytes:
    content = RawGguf().with_pairs(**{"general.tags": (ARRAY, (STRING, []))}).bytes()
    marker = text("general.tags") + struct.pack("<II", ARRAY, STRING)
    tags = struct.pack("<Q", MAX_STRINGS // 4) + text("") * (MAX_STRINGS // 4)
    return content.replace(marker + bytes(8), marker + tags)


BOMBS: dict[str, Callable[[], bytes]] = {
    "names": lambda: RawGguf().with_pairs(**{f"{n}" + "k" * 60_000: (U8, 1) for n in range(1000)}).bytes(),
    "texts": lambda: RawGguf().with_pairs(**{f"k{n}": (STRING, "t" * 16_000) for n in range(3900)}).bytes(),
    "lists": lambda: RawGguf().with_pairs(**{f"k{n}": (ARRAY, (U8, [1] * 512)) for n in range(3900)}).bytes(),
    "tags": many_tags,
}
"""Files that a reader could be made to keep, as large as it will look at."""


@pytest.mark.parametrize("name", BOMBS)
def test_large_headers_are_not_kept(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb.gguf"
    path.write_bytes(BOMBS[name]())
    tracemalloc.start()
    try:
        header = read_header(path)
    except ModelFileError as error:
        assert name == "names"
        assert f"more than {MAX_KEYS_BYTES} bytes" in error.message
    else:
        assert name != "names"
        assert len(header.tags) <= 32
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 12 * MB


def test_a_header_of_a_whole_file_reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file of a terabyte costs as much as its header."""
    raw = RawGguf()
    raw.tensors[0].shape = (2**20, 2**18)
    path = tmp_path / "large.gguf"
    with path.open("wb") as file:
        file.write(raw.bytes())
        file.truncate(2**40 + 2**20)
    assert read_header(path).n_params == 2**38


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_a_mutated_demo_model_is_a_model_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, changes: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(mutate(DEMO.read_bytes(), seed, changes))
    try:
        header = read_header(path)
    except ModelFileError as error:
        assert 0 < len(error.message) < 1000
    else:
        assert header.quantisation
        assert 0 <= header.n_params <= 8 * header.size_bytes
        for bounded in (header.context_length, header.embedding_length, header.block_count):
            assert bounded is None or 0 < bounded < 2**31


def test_a_folder_of_mutated_models_is_read_in_little_memory(tmp_path: Path) -> None:
    content, count = DEMO.read_bytes(), 300 if FULL else 40
    for seed in range(count):
        (tmp_path / f"m{seed}.gguf").write_bytes(mutate(content, seed, random.Random(seed).randint(1, 12)))
    tracemalloc.start()
    try:
        found = catalog(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * MB
    outcomes = [found_or_broken(found, f"m{seed}") for seed in range(count)]
    assert {"model", "error"} == set(outcomes)


def found_or_broken(found: Catalog, name: str) -> str:
    try:
        found.resolve(name)
    except ModelFileError:
        return "error"
    return "model"
