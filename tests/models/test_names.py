"""Names: whatever a file is called and whatever a caller asks for, nothing leaves the folders and nothing breaks."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from localllm.contract.errors import LocalLLMError, ModelNotFoundError
from localllm.contract.model import ModelSpec
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.models.file_names import MAX_NAME_CHARACTERS, is_fit
from localllm.models.gguf_header import GgufHeader
from tests.models.raw_gguf import ARRAY, STRING, RawGguf


def catalog(directory: Path, **options: Any) -> Catalog:
    return Catalog(CatalogOptions(directory, "engine", **{"look_seconds": 0, **options}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("names")
    RawGguf().write(root / "models" / "chat" / "m.gguf")
    RawGguf().write(root / "secret.gguf")
    return root


HOSTILE = [
    "../secret",
    "../secret.gguf",
    "chat/m.gguf",
    "%2e%2e/secret",
    "..\\secret",
    "\u2025/secret",
    "m\0",
    "m\n",
    "",
    ".",
    ".gguf",
    "m" * 4096,
    "m" * 1_000_000,
    "\ud800",
    "/etc/passwd",
    "ｍ",  # noqa: RUF001  # a full-width m
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_the_name_of_nothing(folder: Path, name: str) -> None:
    found = catalog(folder / "models")
    for asked in (name, str(folder / "secret.gguf")):
        with pytest.raises(ModelNotFoundError) as caught:
            found.resolve(asked)
        assert len(caught.value.message) < 1500


@given(st.text(max_size=300))
@example("m.GGUF")
@example("M")
def test_any_name_is_a_model_of_ours_or_nothing(folder: Path, name: str) -> None:
    found = catalog(folder / "models", look_seconds=1e9)
    try:
        spec = found.resolve(name)
    except LocalLLMError as error:
        assert error.param == "model"
    else:
        assert spec.path == str(folder / "models" / "chat" / "m.gguf")
        assert name.casefold().removesuffix(".gguf") == "m"


NOT_ALONE = re.compile(rb"/|\0|mmproj|-[0-9]{5}-of-[0-9]{5}\Z", re.IGNORECASE)
FILE_NAMES = st.binary(min_size=1, max_size=60).filter(lambda name: not NOT_ALONE.search(name))


@given(st.lists(FILE_NAMES, max_size=4, unique=True))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_file_name_gives_an_id_or_a_problem_that_can_be_shown(
    tmp_path_factory: pytest.TempPathFactory, names: list[bytes]
) -> None:
    root = tmp_path_factory.mktemp("any")
    content = RawGguf().bytes()
    for name in names:
        Path(os.fsdecode(os.fsencode(root) + b"/" + name + b".gguf")).write_bytes(content)
    found = catalog(root)
    for spec in found.specs().values():
        assert is_fit(spec.id)
        json.dumps(spec.id).encode()
        spec.id.encode()
        assert found.resolve(spec.id) is not None
    for problem in found.problems:
        problem.encode()
    visible = [name for name in names if not name.startswith(b".")]
    assert len(found.specs()) + len(found.problems) >= len(visible)


def test_a_name_may_be_spelled_in_other_case_while_that_is_clear(tmp_path: Path) -> None:
    for name in ("Qwen-Q8_0", "Twin", "twin"):
        RawGguf().write(tmp_path / f"{name}.gguf")
    found = catalog(tmp_path)
    assert found.resolve("qwen-q8_0").id == found.resolve("QWEN-Q8_0.GGUF").id == "Qwen-Q8_0"
    assert (found.resolve("Twin").id, found.resolve("twin").id) == ("Twin", "twin")
    with pytest.raises(ModelNotFoundError):
        found.resolve("TWIN")


def test_names_that_only_differ_in_case_are_pointed_out(tmp_path: Path) -> None:
    for name in ("Twin", "twin", "other"):
        RawGguf().write(tmp_path / f"{name}.gguf")
    (problem,) = catalog(tmp_path).problems
    assert "'twin' and 'Twin' differ only in case" in problem


def test_accents_may_be_stored_either_way(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    RawGguf().write(tmp_path / f"{decomposed}.gguf")
    assert catalog(tmp_path).resolve(composed).id == decomposed


def test_an_alias_of_any_length_is_found_up_to_the_limit(tmp_path: Path) -> None:
    for length, is_found in ((MAX_NAME_CHARACTERS, True), (MAX_NAME_CHARACTERS + 1, False)):
        found = catalog(tmp_path, registered=(ModelSpec("m", "engine", aliases=("a" * length,)),))
        if is_found:
            assert found.resolve("a" * length).id == "m"
        else:
            with pytest.raises(ModelNotFoundError):
                found.resolve("a" * length)


def test_errors_list_no_more_models_than_can_be_read(tmp_path: Path) -> None:
    specs = tuple(ModelSpec(f"m{number:04}", "engine") for number in range(1000))
    with pytest.raises(ModelNotFoundError, match="and 980 more") as caught:
        catalog(tmp_path, registered=specs).resolve("x")
    assert len(caught.value.detail["models"]) == 200


def test_tags_come_from_the_header_and_are_fit_to_be_shown(tmp_path: Path) -> None:
    tags = ["chat", " spaced ", "", "two\nlines", "x" * 65, "chat", "b" * 64]
    RawGguf().with_pairs(general__tags=(ARRAY, (STRING, tags))).write(tmp_path / "m.gguf")
    assert catalog(tmp_path).specs()["m"].tags == ("chat", "spaced", "b" * 64)


def test_a_header_without_tags() -> None:
    assert GgufHeader(3, {}, {}, 0, {}, 0).tags == ()
