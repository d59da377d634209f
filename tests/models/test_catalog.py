"""The catalogue finds models by folder and header, and knows what a name stands for; a bad file stops nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.errors import ModelFileError, ModelNotFoundError
from localllm.contract.fetch import PulledFile, PullResult
from localllm.contract.model import ModelDefinition, ModelKind, ModelSpec
from localllm.models import headers
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.models.fetch.store import Store as PullStore
from tests.models.clock import Clock
from tests.models.raw_gguf import STRING, U32, RawGguf, Tensor, architecture

CLASSIFIER = [Tensor(), Tensor("cls.weight", offset=512)]


def catalog(directory: Path, clock: Clock | None = None, **options: Any) -> Catalog:
    options = {"directory": directory, "backend": "engine", "look_seconds": 0, **options}
    return Catalog(CatalogOptions(**options), clock or Clock())


def ids(found: Catalog) -> list[str]:
    return list(found.specs())


def define(model_id: str, path: Path | None = None, **options: Any) -> dict[str, ModelDefinition]:
    options = {"backend": "engine", **options}
    return {model_id: ModelDefinition(model_id, path=str(path) if path else None, **options)}


def write_split(folder: Path, name: str, count: int = 2) -> list[Path]:
    paths = []
    for number in range(count):
        raw = RawGguf() if number == 0 else RawGguf(pairs={})
        raw.with_pairs(**{"split.no": (U32, number), "split.count": (U32, count)})
        paths.append(raw.write(folder / f"{name}-{number + 1:05d}-of-{count:05d}.gguf"))
    return paths


def test_a_found_file_with_all_that_is_shown_of_it(tmp_path: Path) -> None:
    path = RawGguf().write(tmp_path / "chat" / "tiny.Q8_0.gguf")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    found = catalog(tmp_path, settings={"threads": 3})
    assert found.specs() == {
        "tiny.Q8_0": ModelSpec(
            id="tiny.Q8_0",
            backend="engine",
            kind=ModelKind.CHAT,
            path=str(path),
            settings={"threads": 3},
            created=1_700_000_000,
            meta={
                "kind": "chat",
                "arch": "llama",
                "name": "Tiny",
                "n_params": 128,
                "size": path.stat().st_size,
                "quantisation": "Q8_0",
                "n_ctx_train": 2048,
                "n_embd": 32,
                "n_layer": 2,
                "n_vocab": 3,
                "has_chat_template": True,
                "hyperparameters": {
                    "context_length": 2048,
                    "block_count": 2,
                    "embedding_length": 32,
                    "attention.head_count": 4,
                },
            },
        )
    }
    assert found.problems == ()


@pytest.mark.parametrize("folder", list(ModelKind))
def test_the_folder_says_what_a_model_is_for(tmp_path: Path, folder: ModelKind) -> None:
    RawGguf().write(tmp_path / folder.value / "m.gguf")
    assert catalog(tmp_path).specs()["m"].kind is folder


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (architecture("llama"), ModelKind.CHAT),
        (architecture("qwen3", pooling_type=(U32, 0)), ModelKind.CHAT),
        (architecture("bert"), ModelKind.EMBEDDING),
        (architecture("gemma-embedding"), ModelKind.EMBEDDING),
        (architecture("qwen3", pooling_type=(U32, 3)), ModelKind.EMBEDDING),
        (architecture("bert", pooling_type=(U32, 1)), ModelKind.EMBEDDING),
        (architecture("qwen3", pooling_type=(U32, 4)), ModelKind.RERANKER),
        (RawGguf(architecture("bert").pairs, CLASSIFIER), ModelKind.RERANKER),
    ],
)
def test_without_a_folder_the_header_says_it(tmp_path: Path, raw: RawGguf, kind: ModelKind) -> None:
    raw.write(tmp_path / "m.gguf")
    spec = catalog(tmp_path).specs()["m"]
    assert (spec.kind, spec.meta["kind"]) == (kind, kind.value)


def test_an_encoder_among_the_chat_models_is_pointed_out(tmp_path: Path) -> None:
    architecture("bert").write(tmp_path / "chat" / "m.gguf")
    assert "its architecture bert can't write text" in catalog(tmp_path).problems[0]


def test_what_is_no_model_is_left_out(tmp_path: Path) -> None:
    chat = tmp_path / "chat"
    RawGguf().write(chat / "mmproj-model.gguf")
    RawGguf().with_pairs(general__type=(STRING, "adapter")).write(chat / "lora.gguf")
    architecture("clip").write(chat / "vision.gguf")
    RawGguf().write(chat / ".hidden.gguf")
    RawGguf().write(chat / "model.gguf.part")
    RawGguf().with_pairs(general__type=(STRING, "imatrix")).write(chat / "imatrix.gguf")
    RawGguf().write(tmp_path / "training" / "checkpoint.gguf")
    RawGguf().write(chat / "org" / "deeper" / "m.gguf")
    RawGguf().write(chat / ".cache" / "m.gguf")
    (chat / "folder.gguf").mkdir()
    found = catalog(tmp_path)
    assert (ids(found), found.problems) == ([], ())


def test_a_model_may_have_a_folder_of_its_own(tmp_path: Path) -> None:
    RawGguf().write(tmp_path / "embedding" / "anything" / "m.gguf")
    write_split(tmp_path / "chat" / "big", "big", 2)
    found = catalog(tmp_path)
    assert [(spec.id, spec.kind) for spec in found.specs().values()] == [
        ("big", ModelKind.CHAT),
        ("m", ModelKind.EMBEDDING),
    ]
    assert found.problems == ()


def test_a_bad_file_is_a_problem_and_stops_nothing(tmp_path: Path) -> None:
    chat = tmp_path / "chat"
    RawGguf().write(chat / "good.gguf")
    (chat / "cut.gguf").write_bytes(RawGguf().bytes()[:-10])
    (chat / "text.gguf").write_text("not found")
    RawGguf(tensors=[]).write(chat / "vocabulary.gguf")
    found = catalog(tmp_path)
    assert ids(found) == ["good"]
    assert [problem.split(":")[0] for problem in found.problems] == ["cut.gguf", "text.gguf", "vocabulary.gguf"]


def test_a_split_model_is_one_model(tmp_path: Path) -> None:
    paths = write_split(tmp_path / "chat", "big", 3)
    found = catalog(tmp_path)
    spec = found.specs()["big"]
    assert (ids(found), spec.path, found.problems) == (["big"], str(paths[0]), ())
    assert spec.meta["n_params"] == 3 * 128
    assert spec.meta["size"] == sum(path.stat().st_size for path in paths)


def test_the_quantisation_of_a_split_is_that_of_all_its_parts(tmp_path: Path) -> None:
    """gguf-split can leave the first part without tensors, and a conversion may store no file type."""
    first, second, third = write_split(tmp_path / "chat", "big", 3)
    q8 = Tensor("a", (32, 100), kind=8, n_bytes=3400)
    head = {name: pair for name, pair in RawGguf().pairs.items() if name != "general.file_type"}
    numbers = {"split.no": (U32, 0), "split.count": (U32, 3)}
    RawGguf(head | numbers, tensors=[]).write(first)
    RawGguf({"split.no": (U32, 1), "split.count": (U32, 3)}, tensors=[q8]).write(second)
    spec = catalog(tmp_path).specs()["big"]
    assert (spec.meta["n_params"], spec.meta["quantisation"]) == (3200 + 128, "Q8_0")
    assert third.exists()


def test_missing_parts_are_named(tmp_path: Path) -> None:
    paths = write_split(tmp_path / "chat", "big", 4)
    paths[1].unlink()
    paths[3].unlink()
    found = catalog(tmp_path)
    assert ids(found) == []
    assert found.problems == ("big-00001-of-00004.gguf: of 4 parts these are missing: 2, 4; download them too",)


def test_parts_that_were_renamed_are_told_from_a_whole_file(tmp_path: Path) -> None:
    write_split(tmp_path / "chat", "big")[0].rename(tmp_path / "chat" / "whole.gguf")
    assert any("it is one of 2 parts" in problem for problem in catalog(tmp_path).problems)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    first = RawGguf().write(tmp_path / "chat" / "m.gguf")
    second = RawGguf().write(tmp_path / "m.gguf")
    found = catalog(tmp_path)
    assert found.specs()["m"].path == str(first)
    assert found.problems == (f"{second}: {first} is already served as 'm'; rename one of the files",)


def test_a_definition_gives_a_file_a_name_a_kind_and_settings(tmp_path: Path) -> None:
    path = RawGguf().write(tmp_path / "chat" / "file.gguf")
    definitions = define(
        "org/name:q8",
        path,
        kind=ModelKind.RERANKER,
        aliases=("short",),
        settings={"threads": 9},
        backend="other",
        tags=("mine",),
        ttl_seconds=60.0,
        pinned=True,
        min_instances=2,
        max_instances=3,
    )
    found = catalog(tmp_path, definitions=definitions, settings={"threads": 1})
    spec = found.specs()["org/name:q8"]
    assert (spec.backend, spec.kind, spec.path, spec.settings) == (
        "other",
        ModelKind.RERANKER,
        str(path),
        {"threads": 9},
    )
    assert (spec.tags, spec.ttl_seconds, spec.pinned) == (("mine",), 60.0, True)
    assert (spec.min_instances, spec.max_instances) == (2, 3)
    assert ids(found) == ["org/name:q8"]
    for name in ("org/name:q8", "short", "file", "file.gguf"):
        assert found.resolve(name).id == "org/name:q8"


def test_two_definitions_of_one_file(tmp_path: Path) -> None:
    path = RawGguf().write(tmp_path / "chat" / "file.gguf")
    found = catalog(tmp_path, definitions=define("a", path) | define("b", path))
    assert (ids(found), found.problems) == (["a", "b"], ())


def test_a_definition_without_a_path_goes_with_the_file_of_its_name(tmp_path: Path) -> None:
    path = RawGguf().write(tmp_path / "chat" / "m.gguf")
    spec = catalog(tmp_path, definitions=define("m", settings={"threads": 9})).specs()["m"]
    assert (spec.path, spec.settings, spec.meta["arch"]) == (str(path), {"threads": 9}, "llama")


def test_a_definition_without_a_file_for_a_backend_that_needs_none(tmp_path: Path) -> None:
    found = catalog(tmp_path, definitions=define("remote", backend="http"))
    assert (found.specs()["remote"].path, found.problems) == (None, ())


@pytest.mark.parametrize("path", [None, Path("/no/such/file.gguf")])
def test_a_definition_that_finds_no_file_is_a_problem(tmp_path: Path, path: Path | None) -> None:
    found = catalog(tmp_path, definitions=define("m", path))
    assert ids(found) == []
    assert found.problems[0].startswith("models.define.m: ")


def test_a_plugins_models_stand_beside_the_files(tmp_path: Path) -> None:
    RawGguf().write(tmp_path / "chat" / "m.gguf")
    found = catalog(tmp_path, registered=(ModelSpec("echo", "echo", aliases=("e",)),))
    assert ids(found) == ["echo", "m"]
    assert found.resolve("e").id == "echo"


def test_an_alias_that_is_taken_stays_with_its_first_owner(tmp_path: Path) -> None:
    RawGguf().write(tmp_path / "chat" / "m.gguf")
    found = catalog(
        tmp_path, registered=(ModelSpec("a", "echo", aliases=("m", "x")), ModelSpec("b", "echo", aliases=("x",)))
    )
    assert (found.resolve("m").id, found.resolve("x").id) == ("m", "a")
    assert found.problems == ("alias 'm' of 'a' already names 'm'", "alias 'x' of 'b' already names 'a'")


@pytest.mark.parametrize(
    ("names", "default"),
    [
        ([], None),
        (["localllm-demo"], "localllm-demo"),
        (["localllm-demo", "zephyr"], "zephyr"),
        (["b", "a"], "a"),
    ],
)
def test_without_a_word_the_first_chat_model_is_the_default(
    tmp_path: Path, names: list[str], default: str | None
) -> None:
    architecture("bert").write(tmp_path / "embedding" / "aaa.gguf")
    for name in names:
        RawGguf().write(tmp_path / "chat" / f"{name}.gguf")
    assert catalog(tmp_path).default == default


def test_the_configured_default_may_be_a_file_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        RawGguf().write(tmp_path / "chat" / f"{name}.gguf")
    assert catalog(tmp_path, default="b.gguf").resolve(None).id == "b"


def test_a_configured_default_that_is_not_there_is_not_replaced(tmp_path: Path) -> None:
    RawGguf().write(tmp_path / "chat" / "a.gguf")
    found = catalog(tmp_path, default="b")
    assert (found.default, found.problems) == (None, ("models.default: there is no model 'b'",))
    with pytest.raises(ModelNotFoundError, match="names no model, and there is no default"):
        found.resolve(None)


@pytest.mark.parametrize(
    ("embedders", "rerankers", "options", "embedding", "reranker"),
    [
        ([], [], {}, None, None),
        (["localllm-demo-embed", "e2", "e1"], ["localllm-demo-rerank", "r"], {}, "e1", "r"),
        (["localllm-demo-embed"], ["localllm-demo-rerank"], {}, "localllm-demo-embed", "localllm-demo-rerank"),
        (["e1", "e2"], [], {}, "e1", "e1"),
        ([], ["r"], {}, None, "r"),
        (["e1", "e2"], ["r"], {"default_embedding": "e2.gguf", "default_reranker": "e1"}, "e2", "e1"),
        ([], [], {"default_embedding": "chat"}, "chat", "chat"),
    ],
)
def test_embeddings_and_reranking_have_defaults_of_their_own(
    tmp_path: Path,
    embedders: list[str],
    rerankers: list[str],
    options: dict[str, str],
    embedding: str | None,
    reranker: str | None,
) -> None:
    RawGguf().write(tmp_path / "chat" / "chat.gguf")
    for folder, names in (("embedding", embedders), ("reranker", rerankers)):
        for name in names:
            architecture("bert").write(tmp_path / folder / f"{name}.gguf")
    found = catalog(tmp_path, **options)
    assert (found.default, found.problems) == ("chat", ())
    for kind, expected in ((ModelKind.EMBEDDING, embedding), (ModelKind.RERANKER, reranker)):
        if expected is not None:
            assert found.resolve(None, kind).id == expected
            continue
        words = f"put a GGUF file into {tmp_path}/{kind.value}, or set models.default_{kind.value}"
        with pytest.raises(ModelNotFoundError, match=words) as caught:
            found.resolve(None, kind)
        assert caught.value.param == "model"


def test_a_configured_default_of_a_kind_that_is_not_there_is_not_replaced(tmp_path: Path) -> None:
    architecture("bert").write(tmp_path / "embedding" / "e.gguf")
    found = catalog(tmp_path, default_embedding="gone", default_reranker="gone too")
    assert found.problems == (
        "models.default_embedding: there is no model 'gone'",
        "models.default_reranker: there is no model 'gone too'",
    )
    for kind in (ModelKind.EMBEDDING, ModelKind.RERANKER):
        with pytest.raises(ModelNotFoundError):
            found.resolve(None, kind)


def test_files_from_the_command_line_are_the_defaults_of_their_kinds(tmp_path: Path) -> None:
    architecture("bert").write(tmp_path / "models" / "embedding" / "a.gguf")
    chat = RawGguf().write(tmp_path / "c.gguf")
    bert = architecture("bert").write(tmp_path / "b.gguf")
    found = catalog(tmp_path / "models", files=(chat, bert), default_embedding="a")
    defaults = [found.resolve(None, kind).id for kind in (ModelKind.CHAT, ModelKind.EMBEDDING, ModelKind.RERANKER)]
    assert defaults == ["c", "b", "b"]


def test_a_file_from_the_command_line_is_served_and_the_default(tmp_path: Path) -> None:
    RawGguf().write(tmp_path / "models" / "chat" / "a.gguf")
    outside = RawGguf().write(tmp_path / "elsewhere" / "b.gguf")
    found = catalog(tmp_path / "models", files=(outside,), default="a")
    assert (ids(found), found.default, found.specs()["b"].path) == (["a", "b"], "b", str(outside))


def test_a_file_from_the_command_line_that_is_known_already(tmp_path: Path) -> None:
    path = RawGguf().write(tmp_path / "chat" / "a.gguf")
    found = catalog(tmp_path, files=(path,), definitions=define("named", path))
    assert (ids(found), found.default, found.problems) == (["named"], "named", ())


def test_a_file_from_the_command_line_wins_over_one_of_the_same_name(tmp_path: Path) -> None:
    RawGguf().write(tmp_path / "models" / "chat" / "a.gguf")
    outside = RawGguf().write(tmp_path / "a.gguf")
    found = catalog(tmp_path / "models", files=(outside,))
    assert found.specs()["a"].path == str(outside)
    assert "is served as 'a' instead" in found.problems[0]


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    for name in ("b", "a"):
        RawGguf().write(tmp_path / "chat" / f"{name}.gguf")
    with pytest.raises(ModelNotFoundError) as caught:
        catalog(tmp_path).resolve("c")
    assert caught.value.message == "There is no model 'c'. Known models: a, b."
    assert (caught.value.param, caught.value.detail) == ("model", {"models": ["a", "b"]})


def test_the_name_of_a_bad_file_is_answered_with_what_is_wrong_with_it(tmp_path: Path) -> None:
    chat = tmp_path / "chat"
    RawGguf().write(chat / "good.gguf")
    (chat / "cut.gguf").write_bytes(RawGguf().bytes()[:-10])
    write_split(chat, "big", 3)[1].unlink()
    elsewhere = tmp_path / "elsewhere.gguf"
    elsewhere.write_text("not found")
    found = catalog(tmp_path, default="cut", definitions=define("named", elsewhere, aliases=("alias",)))
    assert ids(found) == ["good"]
    words = {"cut": "truncated", "cut.gguf": "truncated", "big": "missing: 2", "named": "GGUF", "alias": "GGUF"}
    for name, word in {None: "truncated", **words}.items():
        with pytest.raises(ModelFileError, match=word) as caught:
            found.resolve(name)
        assert caught.value.param == "model"
    (chat / "cut.gguf").write_bytes(RawGguf().bytes())
    assert found.resolve("cut").id == found.resolve(None).id == "cut"


def test_an_empty_server_says_where_models_go(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"put a GGUF file into {tmp_path}/chat"):
        catalog(tmp_path).resolve(None)


def test_the_folders_are_made(tmp_path: Path) -> None:
    catalog(tmp_path / "models").create_folders()
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["chat", "embedding", "reranker"]


def test_files_that_come_change_and_go_are_noticed(tmp_path: Path) -> None:
    found = catalog(tmp_path)
    found.create_folders()
    path = tmp_path / "chat" / "m.gguf"
    path.write_bytes(RawGguf().bytes()[:-100])  # still being copied
    assert (ids(found), len(found.problems)) == ([], 1)
    path.write_bytes(RawGguf().bytes())  # the folder's own time does not change by this
    assert (ids(found), found.problems, found.default) == (["m"], (), "m")
    path.unlink()
    assert (ids(found), found.default) == ([], None)


def test_a_defined_file_outside_the_folders_is_noticed_when_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.gguf"
    found = catalog(tmp_path / "models", definitions=define("m", path))
    assert ids(found) == []
    RawGguf().write(path)
    assert ids(found) == ["m"]


def test_headers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    real = headers.read_header
    monkeypatch.setattr(headers, "read_header", lambda path: reads.append(path) or real(path))
    first = RawGguf().write(tmp_path / "chat" / "a.gguf")
    clock = Clock()
    found = catalog(tmp_path, clock)
    for _ in range(3):
        found.resolve("a")
    second = RawGguf().write(tmp_path / "chat" / "b.gguf")
    clock.settle()
    assert ids(found) == ["a", "b"]
    assert reads == [first, second]


def test_without_an_engine_for_files_the_catalogue_says_so(tmp_path: Path) -> None:
    RawGguf().write(tmp_path / "chat" / "a.gguf")
    found = catalog(tmp_path, backend=None, files=(tmp_path / "chat" / "a.gguf",))
    assert ids(found) == []
    assert all("no enabled plugin brings an engine" in problem for problem in found.problems)
    assert len(found.problems) == 2


def test_a_folder_that_can_not_be_listed_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "chat").write_text("a file where a folder should be")
    assert "can't be listed" in catalog(tmp_path).problems[0]


@pytest.mark.parametrize("name", [b"bad\xff", b"two\nlines", b"red\x1b[31m"])
def test_a_file_name_that_no_answer_could_carry_is_a_problem_and_hides_nothing_else(
    tmp_path: Path, name: bytes
) -> None:
    RawGguf().write(tmp_path / "chat" / "good.gguf")
    odd = RawGguf().write(tmp_path / "chat" / os.fsdecode(name + b".gguf"))
    found = catalog(tmp_path)
    assert ids(found) == ["good"]
    (problem,) = found.problems
    assert "rename" in problem
    assert problem.isprintable()
    assert ids(catalog(tmp_path, files=(odd,))) == ["good"]


def test_the_header_of_a_file_that_is_being_copied_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a tenth of a second for a big vocabulary, on the event loop: not at every request of a long copy."""
    n_reads = 0
    read_header = headers.read_header

    def counted(path: Path) -> Any:
        nonlocal n_reads
        n_reads += 1
        return read_header(path)

    monkeypatch.setattr(headers, "read_header", counted)
    whole = RawGguf().write(tmp_path / "whole.bin").read_bytes()
    other = RawGguf(tensors=[Tensor("other_embd.weight")]).write(tmp_path / "other.bin").read_bytes()
    path = tmp_path / "chat" / "big.gguf"
    path.parent.mkdir()
    clock = Clock()
    found = catalog(tmp_path, clock)
    for n_bytes in range(len(whole) - 20, len(whole)):
        path.write_bytes(whole[:n_bytes])
        clock.settle()
        assert ids(found) == []
    assert n_reads == 1
    path.write_bytes(whole)
    assert ids(found) == ["big"]
    assert n_reads == 2
    path.write_bytes(whole[:-20])
    assert ids(found) == []
    path.write_bytes(other[:-10])  # another file, of a size that the first one may have had on its way
    assert ids(found) == []
    assert n_reads == 4


def pulled(directory: Path, path: Path, source: str) -> None:
    file = PulledFile(str(path), path.stat().st_size, "0" * 64, verified=False)
    PullStore(directory).remember(PullResult(path.stem, ModelKind.CHAT, source, source, (file,)))


def test_a_definition_with_a_source_arrives_and_is_no_problem(tmp_path: Path) -> None:
    definitions = define("a", source="hf:o/r", aliases=("gpt",))
    found = catalog(tmp_path, definitions=definitions, default="GPT")
    assert (ids(found), found.problems, found.default, dict(found.arriving)) == ([], (), None, definitions)
    with pytest.raises(ModelNotFoundError, match="'a' has not been fetched yet from hf:o/r"):
        found.resolve("gpt")
    RawGguf().write(tmp_path / "chat" / "a.gguf")
    assert found.resolve(None).id == "a"
    assert (dict(found.arriving), found.problems) == ({}, ())


def test_a_definition_finds_the_file_that_was_pulled_from_its_source_by_another_name(tmp_path: Path) -> None:
    path = RawGguf().write(tmp_path / "chat" / "repo-Q4_0.gguf")
    pulled(tmp_path, path, "hf:o/r")
    found = catalog(tmp_path, definitions=define("a", source="hf:o/r"))
    assert [(spec.id, spec.path, spec.aliases) for spec in found.specs().values()] == [("a", str(path), ("repo-Q4_0",))]
    assert (dict(found.arriving), found.problems) == ({}, ())
    path.write_bytes(path.read_bytes() + bytes(32))
    assert list(catalog(tmp_path, definitions=define("a", source="hf:o/r")).arriving) == ["a"], "that is another file"


def test_a_file_from_another_source_is_served_with_a_word(tmp_path: Path) -> None:
    path = RawGguf().write(tmp_path / "chat" / "a.gguf")
    pulled(tmp_path, path, "hf:o/old")
    found = catalog(tmp_path, definitions=define("a", source="hf:o/new"))
    assert ids(found) == ["a"]
    (problem,) = found.problems
    assert "came from hf:o/old" in problem
    assert "localllm models rm a" in problem


def test_a_broken_file_of_a_definition_with_a_source_is_told_and_not_fetched_over(tmp_path: Path) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "a.gguf").write_text("x")
    found = catalog(tmp_path, definitions=define("a", source="hf:o/r"))
    assert (ids(found), dict(found.arriving), len(found.problems)) == ([], {}, 1)
    with pytest.raises(ModelFileError):
        found.resolve("a")
