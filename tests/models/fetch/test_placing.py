"""A model gets into its place whole, under a name that can't hurt, and nothing that came from elsewhere is touched."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.contract.errors import InvalidRequestError, ModelFileError
from localllm.contract.fetch import FileRole, PullError, RemoteFile
from localllm.contract.model import ModelKind
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.models.fetch.names import check_model_id, clean_stem
from localllm.models.fetch.store import Store, is_in_place
from tests.models.fetch.kit import FileServer, Pulling, breaking_off, good, model_bytes, sha256, status
from tests.models.raw_gguf import STRING, U16, U32, architecture

DATA = model_bytes(8)


def embedding_model() -> bytes:
    return architecture("bert", pooling_type=(U32, 1)).bytes()


def projector() -> bytes:
    return architecture("clip").with_pairs(general__type=(STRING, "mmproj")).bytes()


def part(number: int, count: int) -> bytes:
    pairs: dict[str, Any] = {
        "split.no": (U16, number),
        "split.count": (U16, count),
        "split.tensors.count": (U16, count),
    }
    return model_bytes(8, fill=bytes([65 + number]), **pairs)


@given(st.text(max_size=200) | st.from_regex(r"[./\\%\x00a-z0-9]{0,40}", fullmatch=True))
def test_no_name_leaves_its_folder_or_means_something_else(name: str) -> None:
    for candidate in (name, f"{name}.gguf"):
        try:
            stem = clean_stem(candidate)
        except InvalidRequestError:
            continue
        assert stem == Path(stem).name and not stem.startswith(".") and stem.isascii() and "/" not in stem
        assert check_model_id(stem) == stem


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("../../etc/passwd.gguf", "passwd"),
        ("..\\..\\windows\\x.gguf", "x"),
        (".hidden.gguf", "hidden"),
        ("a b\x00c\u2024\u2025.gguf", "a-b-c"),
        ("sub/Qwen3-0.6B-Q8_0.gguf", "Qwen3-0.6B-Q8_0"),
        ("x.GGUF", "x"),
    ],
)
def test_names_of_others_are_cut_down(name: str, stem: str) -> None:
    assert clean_stem(name) == stem


@pytest.mark.parametrize(
    "name", ["", "x.bin", ".gguf", "....gguf", "con.gguf", "NUL.gguf", "a" * 200 + ".gguf", "x.gguf/"]
)
def test_names_that_make_no_file_here(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        clean_stem(name)


@pytest.mark.parametrize(
    "model_id", ["", "../x", "a/b", ".x", "x.", "a b", "x\n", "ü", "aux", "a" * 121, "-x", "%2e%2e"]
)
def test_ids_that_make_no_file_name(pulling: Pulling, server: FileServer, model_id: str) -> None:
    with pytest.raises(InvalidRequestError):
        pulling.pull(model_id=model_id)
    assert server.requests == []


def test_the_header_chooses_the_folder(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(embedding_model())
    assert pulling.pull().kind is ModelKind.EMBEDDING
    assert list(pulling.models) == ["embedding/tiny.gguf"]


def test_the_caller_may_choose_kind_and_id(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(embedding_model())
    result = pulling.pull(model_id="judge", kind=ModelKind.RERANKER)
    assert (result.model_id, result.kind) == ("judge", ModelKind.RERANKER)
    assert list(pulling.models) == ["reranker/judge.gguf"]


def test_the_catalogue_finds_it_by_itself(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    catalog = Catalog(CatalogOptions(pulling.directory, backend="fake"))
    assert list(catalog.specs()) == []
    pulling.pull()
    assert catalog.resolve("tiny").path == str(pulling.directory / "chat" / "tiny.gguf")
    assert catalog.problems == ()


def test_half_of_a_file_is_no_problem_of_the_catalogue(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = breaking_off(DATA, 5000)
    with pytest.raises(PullError):
        pulling.pull(retries=0)
    catalog = Catalog(CatalogOptions(pulling.directory, backend="fake"))
    assert (list(catalog.specs()), catalog.problems) == ([], ())


def test_a_split_model_with_its_projector(pulling: Pulling, server: FileServer) -> None:
    names = [f"vision-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for number, name in enumerate(names):
        server.routes[f"/{name}"] = good(part(number, 3))
    server.routes["/mmproj-F16.gguf"] = good(projector())
    files = [RemoteFile(name, url=f"{server.origin}/{name}") for name in names]
    files.append(RemoteFile("mmproj-F16.gguf", url=f"{server.origin}/mmproj-F16.gguf", role=FileRole.PROJECTOR))
    result = pulling.run(*files)
    assert result.model_id == "vision"
    assert list(pulling.models) == ["chat/mmproj-vision.gguf", *(f"chat/{name}" for name in names)]
    assert pulling.models["chat/vision-00002-of-00003.gguf"] == part(1, 3)
    catalog = Catalog(CatalogOptions(pulling.directory, backend="fake"))
    assert catalog.problems == ()
    assert catalog.resolve("vision").meta["projector"] == "mmproj-vision.gguf"


def test_one_part_of_several_is_refused(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(part(0, 3))
    with pytest.raises(ModelFileError, match="is one of 3 parts, but 1 came"):
        pulling.pull()
    assert pulling.models == {}


@pytest.mark.parametrize("role", ["adapter", "mmproj", "imatrix"])
def test_what_is_no_model_by_itself_is_refused(pulling: Pulling, server: FileServer, role: str) -> None:
    server.routes["/tiny.gguf"] = good(model_bytes(4, **{"general.type": (STRING, role)}))
    with pytest.raises(ModelFileError, match=f"is of type '{role}', where a model was expected"):
        pulling.pull()
    assert pulling.models == {}
    assert pulling.parts == []


def test_pulling_again_changes_nothing(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    first = pulling.pull(digest=sha256(DATA))
    again = pulling.pull(digest=sha256(DATA))
    assert (again.fresh, again.files) == (False, first.files)
    assert len(server.requests) == 1


def test_a_new_version_replaces_the_old_one_at_once(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    pulling.pull(digest=sha256(DATA))
    newer = model_bytes(8, fill=b"n")
    server.routes["/tiny.gguf"] = breaking_off(newer, 4000)
    with pytest.raises(PullError):
        pulling.pull(digest=sha256(newer), retries=0)
    assert pulling.models == {"chat/tiny.gguf": DATA}, "the old one stays until the new one is whole"
    server.routes["/tiny.gguf"] = good(newer)
    assert pulling.pull(digest=sha256(newer)).fresh
    assert pulling.models == {"chat/tiny.gguf": newer}


def test_the_same_source_under_another_id_is_another_model(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    pulling.pull(model_id="one", digest=sha256(DATA))
    assert pulling.pull(model_id="two", digest=sha256(DATA)).fresh
    assert pulling.models == {"chat/one.gguf": DATA, "chat/two.gguf": DATA}, "who may pull may not remove"
    for model_id in ("one", "two"):
        again = pulling.pull(model_id=model_id, digest=sha256(DATA))
        assert (again.model_id, again.fresh) == (model_id, False)
    (pulling.directory / "chat" / "one.gguf").unlink()
    found = Store(pulling.directory).find("test:model")
    assert found is not None and found.model_id == "two", "the one that is there"


def test_a_file_that_came_from_elsewhere_is_never_overwritten(pulling: Pulling, server: FileServer) -> None:
    mine = pulling.directory / "embedding" / "tiny.gguf"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"precious")
    server.routes["/tiny.gguf"] = good(DATA)
    with pytest.raises(
        InvalidRequestError, match=r"tiny.gguf is there already and came from elsewhere; give another id"
    ):
        pulling.pull()
    assert mine.read_bytes() == b"precious"
    assert server.requests == []
    pulling.pull(model_id="other")


def test_a_dangling_link_is_never_written_through(pulling: Pulling, server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.gguf"
    (pulling.directory / "chat").mkdir(parents=True)
    (pulling.directory / "chat" / "tiny.gguf").symlink_to(target)
    server.routes["/tiny.gguf"] = good(DATA)
    with pytest.raises(InvalidRequestError):
        pulling.pull()
    assert not target.exists()


def test_the_same_bytes_put_there_by_hand_are_adopted(pulling: Pulling, server: FileServer) -> None:
    mine = pulling.directory / "chat" / "tiny.gguf"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(DATA)
    result = pulling.pull(digest=sha256(DATA), size=len(DATA))
    assert (result.fresh, result.verified) == (False, True)
    assert server.requests == []


def test_a_pull_that_was_cut_off_while_moving_knows_its_own_files(
    pulling: Pulling, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for number, name in enumerate(names):
        server.routes[f"/{name}"] = good(part(number, 2))
    files = [RemoteFile(name, url=f"{server.origin}/{name}") for name in names]
    replace_file = Path.replace
    moved: list[Path] = []

    def cut_off(self: Path, target: Path) -> Path:
        if target.parent.name == "chat" and moved:
            raise KeyboardInterrupt
        if target.parent.name == "chat":
            moved.append(target)
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        pulling.run(*files)
    monkeypatch.undo()
    assert list(pulling.models) == ["chat/m-00002-of-00002.gguf"]
    pulling.run(*files)
    assert list(pulling.models) == [f"chat/{name}" for name in names]


def test_a_kind_folder_on_another_disk_gets_a_copy(
    pulling: Pulling, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file = Path.replace

    def other_disk(self: Path, target: Path) -> Path:
        if ".localllm" in self.parts and target.parent.name == "chat":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", other_disk)
    server.routes["/tiny.gguf"] = good(DATA)
    pulling.pull()
    assert pulling.models == {"chat/tiny.gguf": DATA}
    assert [path.name for path in (pulling.directory / "chat").iterdir()] == ["tiny.gguf"]


def test_a_file_of_this_machine_is_linked_not_copied(pulling: Pulling, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(DATA)
    result = pulling.run(RemoteFile("mine.gguf", path=str(mine)))
    placed = pulling.directory / "chat" / "mine.gguf"
    assert placed.stat().st_ino == mine.stat().st_ino
    assert result.files[0].sha256 == sha256(DATA)


def test_a_file_of_another_disk_is_copied(pulling: Pulling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(source: Any, target: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(DATA)
    pulling.run(RemoteFile("mine.gguf", path=str(mine)))
    placed = pulling.directory / "chat" / "mine.gguf"
    assert placed.read_bytes() == DATA
    assert placed.stat().st_ino != mine.stat().st_ino


@pytest.mark.parametrize("content", [b"", b"GGU", b"root:x:0:0:root", b"GGUF broken"])
def test_a_file_of_this_machine_that_is_no_model_is_refused(pulling: Pulling, tmp_path: Path, content: bytes) -> None:
    mine = tmp_path / "secret.gguf"
    mine.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        pulling.run(RemoteFile("secret.gguf", path=str(mine)))
    assert "root" not in caught.value.message
    assert pulling.models == {}
    assert mine.read_bytes() == content


def test_a_device_is_not_opened(pulling: Pulling) -> None:
    with pytest.raises(PullError, match="is no regular file"):
        pulling.run(RemoteFile("zero.gguf", path="/dev/zero"))


def test_wrong_hash_of_a_local_file(pulling: Pulling, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(DATA)
    with pytest.raises(PullError, match="was expected"):
        pulling.run(RemoteFile("mine.gguf", path=str(mine), sha256="0" * 64))
    assert pulling.models == {}
    assert mine.exists()


def test_where_it_came_from_is_remembered_and_moves_with_the_folder(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    pulling.pull()
    moved = pulling.directory.rename(pulling.directory.with_name("moved"))
    found = Store(moved).find("test:model")
    assert found is not None and is_in_place(found)
    assert found.files[0].path == str(moved / "chat" / "tiny.gguf")
    assert (found.origin, found.files[0].sha256) == ("test:model@1", sha256(DATA))
    (moved / "chat" / "tiny.gguf").unlink()
    assert not is_in_place(found)


def test_a_broken_note_is_no_fault(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    pulling.pull(digest=sha256(DATA), size=len(DATA))
    for note in (pulling.directory / ".localllm" / "pulled").iterdir():
        note.write_text("{")
    assert pulling.pull(digest=sha256(DATA), size=len(DATA)).fresh is False


def test_a_failed_pull_leaves_no_rubbish(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = status(404)
    with pytest.raises(PullError):
        pulling.pull()
    assert list((pulling.directory / ".localllm" / "parts").iterdir()) == []


def test_parts_that_nobody_wanted_for_a_month_are_removed(pulling: Pulling, server: FileServer) -> None:
    server.routes |= {"/old.gguf": breaking_off(DATA, 4000), "/new.gguf": breaking_off(DATA, 4000)}
    for name in ("old", "new"):
        with pytest.raises(PullError):
            pulling.pull(f"{name}.gguf", source=f"test:{name}", retries=0)
    (old,) = [part for part in pulling.parts if part.name.startswith("old")]
    os.utime(old.parent, (1, 1))
    server.routes["/tiny.gguf"] = good(DATA)
    pulling.pull()
    assert [part.name for part in pulling.parts] == ["new.gguf.part"]


def test_the_same_source_is_fetched_by_one_process_at_a_time(pulling: Pulling, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)
    with Store(pulling.directory).staging("test:model"), pytest.raises(PullError, match="by another process right now"):
        pulling.pull()
    pulling.pull()
