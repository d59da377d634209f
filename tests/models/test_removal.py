"""Only a model's own files are removed, and only out of the models' folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.contract.errors import InvalidRequestError, ModelNotFoundError
from localllm.contract.fetch import FileRole, RemoteFile
from localllm.contract.model import ModelSpec
from localllm.models.removal import plan_removal
from tests.models.fetch.kit import Pulling, good, serving
from tests.models.fetch.test_placing import projector
from tests.models.raw_gguf import U16, RawGguf


@pytest.fixture
def models(tmp_path: Path) -> Path:
    RawGguf().write(tmp_path / "models/chat/a.gguf")
    RawGguf().write(tmp_path / "models/chat/b.gguf")
    return tmp_path / "models"


def spec(path: Path) -> ModelSpec:
    return ModelSpec(path.stem, "fake", path=str(path))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def test_one_file(models: Path) -> None:
    removal = plan_removal(spec(models / "chat/a.gguf"), models)
    assert removal.size_bytes == removal.paths[0].stat().st_size
    removal.execute()
    assert names(models) == ["chat/b.gguf"]


def test_all_parts(models: Path) -> None:
    for number in (1, 2):
        part = RawGguf().with_pairs(split__no=(U16, number - 1), split__count=(U16, 2))
        part.write(models / f"chat/c-0000{number}-of-00002.gguf")
    plan_removal(spec(models / "chat/c-00001-of-00002.gguf"), models).execute()
    assert names(models) == ["chat/a.gguf", "chat/b.gguf"]


def test_a_folder_of_its_own_goes_when_it_is_empty(models: Path) -> None:
    RawGguf().write(models / "chat/own/c.gguf")
    RawGguf().write(models / "chat/kept/c.gguf")
    (models / "chat/kept/notes.txt").write_text("mine")
    for folder in ("own", "kept"):
        plan_removal(spec(models / f"chat/{folder}/c.gguf"), models).execute()
    assert sorted(path.name for path in (models / "chat").iterdir()) == ["a.gguf", "b.gguf", "kept"]


@pytest.mark.parametrize("place", ["outside/x.gguf", "models/../outside/x.gguf", "models/chat/linked/x.gguf"])
def test_what_lies_elsewhere_is_refused(models: Path, tmp_path: Path, place: str) -> None:
    outside = RawGguf().write(tmp_path / "outside/x.gguf")
    (models / "chat/linked").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidRequestError, match="remove it where it lies"):
        plan_removal(spec(tmp_path / place), models)
    assert outside.exists()


def test_of_a_link_the_link_is_removed(models: Path, tmp_path: Path) -> None:
    outside = RawGguf().write(tmp_path / "outside/x.gguf")
    (models / "chat/x.gguf").symlink_to(outside)
    plan_removal(spec(models / "chat/x.gguf"), models).execute()
    assert names(models) == ["chat/a.gguf", "chat/b.gguf"]
    assert outside.exists()


def test_a_model_without_a_file_and_one_that_has_gone(models: Path) -> None:
    with pytest.raises(InvalidRequestError, match="has no file"):
        plan_removal(ModelSpec("x", "fake"), models)
    with pytest.raises(ModelNotFoundError, match="has gone already"):
        plan_removal(spec(models / "chat/none.gguf"), models)


def test_what_was_fetched_with_it_goes_too_and_it_can_be_fetched_again(tmp_path: Path) -> None:
    data = RawGguf().bytes()
    with serving() as server:
        pulling = Pulling(tmp_path / "models", server)
        server.routes |= {"/v.gguf": good(data), "/mmproj.gguf": good(projector())}
        files = [
            RemoteFile("vision.gguf", url=f"{server.origin}/v.gguf"),
            RemoteFile("mmproj.gguf", url=f"{server.origin}/mmproj.gguf", role=FileRole.PROJECTOR),
        ]
        pulling.run(*files)
        plan_removal(spec(pulling.directory / "chat/vision.gguf"), pulling.directory).execute()
        assert pulling.models == {}
        assert list((pulling.directory / ".localllm/pulled").iterdir()) == []
        assert pulling.run(*files).fresh
