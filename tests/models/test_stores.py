"""Other programs' models are served from where they lie; nothing in a store leads out of it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.contract.errors import ModelFileError
from localllm.contract.model import ModelDefinition, ModelKind
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.models.ollama_store import DIGEST
from localllm.models.stores import Store, find_stores
from tests.models.clock import Clock
from tests.models.raw_gguf import STRING, U32, RawGguf, architecture

MODEL_LAYER = "application/vnd.ollama.image.model"


def catalog(*stores: Store, directory: Path | None = None, clock: Clock | None = None, **options: Any) -> Catalog:
    options = {"directory": directory or Path("/nowhere"), "stores": stores, "look_seconds": 0, **options}
    return Catalog(CatalogOptions(backend="engine", **options), clock or Clock())


def ids(found: Catalog) -> list[str]:
    return list(found.specs())


class Hub:
    """A Hugging Face cache."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)

    def add(self, repository: str, name: str, raw: RawGguf | None = None, revision: str = "a" * 40) -> Path:
        folder = self.root / f"models--{repository.replace('/', '--')}"
        content = (raw or RawGguf()).with_pairs(general__url=(STRING, name + revision)).bytes()
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = folder / "snapshots" / revision / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        self.use(repository, revision)
        return link

    def use(self, repository: str, revision: str) -> None:
        reference = self.root / f"models--{repository.replace('/', '--')}" / "refs" / "main"
        reference.parent.mkdir(exist_ok=True)
        reference.write_text(revision)

    @property
    def store(self) -> Store:
        return Store("huggingface", self.root, "huggingface")


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "hub")


class Ollama:
    """Ollama's folder of models."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)

    def blob(self, raw: RawGguf) -> str:
        digest = f"sha256:{hashlib.sha256(raw.bytes()).hexdigest()}"
        raw.write(self.root / "blobs" / digest.replace(":", "-"))
        return digest

    def manifest(self, name: str, content: object) -> Path:
        path = self.root / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    def add(self, name: str, raw: RawGguf | None = None, **others: RawGguf) -> Path:
        layers = [{"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64}]
        for role, file in {"model": raw or RawGguf(), **others}.items():
            layers.append({"mediaType": f"application/vnd.ollama.image.{role}", "digest": self.blob(file)})
        return self.manifest(name, {"schemaVersion": 2, "layers": layers})

    @property
    def store(self) -> Store:
        return Store("ollama", self.root, "ollama")


@pytest.fixture
def ollama(tmp_path: Path) -> Ollama:
    return Ollama(tmp_path / "ollama")


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def test_the_hugging_face_cache(hub: Hub) -> None:
    path = hub.add("bartowski/Qwen3-GGUF", "Qwen3-0.6B-Q8_0.gguf")
    hub.add("bartowski/Qwen3-GGUF", "Qwen3-0.6B-Q4_K_M.gguf")
    hub.add("BAAI/bge", "bge-small-f16.gguf", architecture("bert"))
    hub.add("BAAI/bge", "README.md")
    (hub.root / "datasets--a--b").mkdir()
    found = catalog(hub.store)
    assert ids(found) == ["BAAI/bge:F16", "bartowski/Qwen3-GGUF:Q4_K_M", "bartowski/Qwen3-GGUF:Q8_0"]
    spec = found.specs()["bartowski/Qwen3-GGUF:Q8_0"]
    assert (spec.path, spec.meta["store"], spec.aliases) == (str(path), "huggingface", ())
    assert found.specs()["BAAI/bge:F16"].kind is ModelKind.EMBEDDING
    assert found.resolve("BAAI/bge").id == "BAAI/bge:F16", "the only one of its repository"
    assert found.problems == ()


def test_only_the_current_revision_counts(hub: Hub) -> None:
    hub.add("org/name", "old-Q8_0.gguf", revision="b" * 40)
    hub.add("org/name", "new-Q4_0.gguf", revision="c" * 40)
    clock = Clock()
    found = catalog(hub.store, clock=clock)
    assert ids(found) == ["org/name:Q4_0"]
    hub.use("org/name", "b" * 40)
    clock.settle()
    assert ids(found) == ["org/name:Q8_0"], "noticed without a restart"


def test_a_cache_without_references(hub: Hub) -> None:
    hub.add("org/name", "m-Q8_0.gguf")
    (hub.root / "models--org--name" / "refs" / "main").unlink()
    assert ids(catalog(hub.store)) == ["org/name:Q8_0"]


def test_split_files_and_projectors_of_a_repository(hub: Hub) -> None:
    for number in range(2):
        raw = RawGguf() if number == 0 else RawGguf(pairs={})
        raw.with_pairs(**{"split.no": (U32, number), "split.count": (U32, 2)})
        last = hub.add("org/big", f"UD-Q4_K_XL/big-UD-Q4_K_XL-{number + 1:05d}-of-00002.gguf", raw)
    hub.add("org/big", "mmproj-F16.gguf", architecture("clip"))
    found = catalog(hub.store)
    spec = found.specs()["org/big:UD-Q4_K_XL"]
    assert (ids(found), found.problems) == (["org/big:UD-Q4_K_XL"], ())
    assert spec.path == str(last).replace("00002-of", "00001-of")
    assert spec.meta["projector"] == f"..{os.sep}mmproj-F16.gguf"
    assert spec.aliases == ("org/big",)


def test_files_of_one_quantisation_keep_apart(hub: Hub) -> None:
    hub.add("org/name", "m-Q8_0.gguf")
    hub.add("org/name", "m-instruct-Q8_0.gguf")
    hub.add("org/name", "plain.gguf")
    hub.add("org/name", "a/same.gguf")
    hub.add("org/name", "b/same.gguf")
    expected = {"org/name:Q8_0", "org/name:m-instruct-Q8_0", "org/name:plain", "org/name:a/same", "org/name:b/same"}
    found = catalog(hub.store)
    assert (set(ids(found)), found.problems) == (expected, ())


def test_a_model_that_is_fetched_while_the_server_runs(hub: Hub) -> None:
    clock = Clock()
    found = catalog(hub.store, clock=clock)
    assert ids(found) == []
    link = hub.add("org/name", "m-Q8_0.gguf")
    clock.settle()
    assert ids(found) == ["org/name:Q8_0"]
    link.unlink()
    clock.settle()
    assert ids(found) == []


@pytest.mark.parametrize("revision", ["../../../x", "..", "", "a/b", "x" * 200, "\0"])
def test_a_reference_that_is_no_revision(hub: Hub, revision: str) -> None:
    hub.add("org/name", "m-Q8_0.gguf")
    hub.use("org/name", revision)
    found = catalog(hub.store)
    assert ids(found) == []
    assert "it names no revision" in found.problems[0]


def test_a_link_that_leads_out_of_the_cache_is_not_followed(hub: Hub, tmp_path: Path) -> None:
    link = hub.add("org/name", "m-Q8_0.gguf")
    outside = RawGguf().write(tmp_path / "outside.gguf")
    link.unlink()
    link.symlink_to(outside)
    found = catalog(hub.store)
    assert ids(found) == []
    assert "leads out of" in found.problems[0]


# --- LM Studio -------------------------------------------------------------------------------------------------------


def test_lm_studio(tmp_path: Path) -> None:
    repository = tmp_path / "lmstudio-community" / "Qwen3-0.6B-GGUF"
    path = RawGguf().write(repository / "Qwen3-0.6B-Q8_0.gguf")
    architecture("clip").write(repository / "mmproj-model-f16.gguf")
    RawGguf().write(tmp_path / "elsewhere.gguf")
    found = catalog(Store("lmstudio", tmp_path, "lmstudio"))
    spec = found.specs()["lmstudio-community/Qwen3-0.6B-GGUF:Q8_0"]
    assert (len(ids(found)), spec.path, spec.meta["projector"]) == (1, str(path), "mmproj-model-f16.gguf")
    assert found.resolve("lmstudio-community/Qwen3-0.6B-GGUF").id == spec.id


# --- Ollama ----------------------------------------------------------------------------------------------------------


def test_ollama(ollama: Ollama) -> None:
    ollama.add("registry.ollama.ai/library/llama3/8b")
    ollama.add("registry.ollama.ai/library/llama3/latest", RawGguf().with_pairs(general__url=(STRING, "latest")))
    ollama.add("registry.ollama.ai/me/embed/v1", architecture("bert"))
    ollama.add("hf.co/org/repo/Q4_K_M", RawGguf().with_pairs(general__url=(STRING, "hf")))
    found = catalog(ollama.store)
    assert ids(found) == ["hf.co/org/repo:Q4_K_M", "llama3:8b", "llama3:latest", "me/embed:v1"]
    assert found.resolve("llama3").id == "llama3:latest"
    spec = found.specs()["llama3:8b"]
    assert (spec.meta["store"], spec.meta["quantisation"]) == ("ollama", "Q8_0")
    assert Path(spec.path or "").name.startswith("sha256-")
    assert found.problems == ()


def test_two_tags_of_one_blob_are_two_models(ollama: Ollama) -> None:
    """As in Ollama: their settings, which are its own, may differ."""
    for tag in ("8b", "latest"):
        ollama.add(f"registry.ollama.ai/library/llama3/{tag}")
    assert ids(catalog(ollama.store)) == ["llama3:8b", "llama3:latest"]


def test_ollamas_projectors_and_adapters(ollama: Ollama) -> None:
    adapter = RawGguf().with_pairs(general__type=(STRING, "adapter"))
    ollama.add("registry.ollama.ai/library/llava/7b", projector=architecture("clip"), adapter=adapter)
    spec = catalog(ollama.store).specs()["llava:7b"]
    assert spec.meta["projector"].startswith("sha256-")
    assert len(spec.meta["adapters"]) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no manifest"),
        (b"[" * 100_000, "no manifest"),
        (b"[1]", "no manifest"),
        ({"layers": "text"}, "no manifest"),
        ({"layers": [{"mediaType": MODEL_LAYER}]}, "no manifest"),
        (b" " * 1_100_000, "has more than"),
        ({"layers": [{"mediaType": MODEL_LAYER, "digest": "sha256:" + "a" * 64}]}, "is missing"),
        ({"layers": [{"mediaType": MODEL_LAYER, "digest": "sha256:../../../etc/passwd"}]}, "no digest"),
        ({"layers": [{"mediaType": MODEL_LAYER, "digest": "sha256:" + "A" * 64}]}, "no digest"),
        ({"layers": [{"mediaType": MODEL_LAYER, "digest": "md5:" + "a" * 64}]}, "no digest"),
        ({"layers": [{"mediaType": MODEL_LAYER, "digest": "sha256:" + "a" * 64 + "\n"}]}, "no digest"),
    ],
)
def test_a_bad_manifest_is_a_problem_and_hides_nothing_else(ollama: Ollama, content: object, words: str) -> None:
    ollama.add("registry.ollama.ai/library/good/1")
    ollama.manifest("registry.ollama.ai/library/bad/1", content)
    found = catalog(ollama.store)
    assert ids(found) == ["good:1"]
    (problem,) = found.problems
    assert problem.startswith("bad:1: ")
    assert words in problem
    assert len(problem) < 500


def test_a_blob_that_leads_out_of_the_store_is_not_followed(ollama: Ollama, tmp_path: Path) -> None:
    manifest = ollama.add("registry.ollama.ai/library/m/1")
    digest = json.loads(manifest.read_text())["layers"][1]["digest"]
    blob = ollama.root / "blobs" / digest.replace(":", "-")
    blob.unlink()
    blob.symlink_to(RawGguf().write(tmp_path / "outside.gguf"))
    found = catalog(ollama.store)
    assert (ids(found), "leads out of the store" in found.problems[0]) == ([], True)


def test_a_broken_blob_is_called_by_its_models_name(ollama: Ollama) -> None:
    manifest = ollama.add("registry.ollama.ai/library/m/latest")
    digest = json.loads(manifest.read_text())["layers"][1]["digest"]
    (ollama.root / "blobs" / digest.replace(":", "-")).write_bytes(b"GGUF")
    found = catalog(ollama.store)
    assert found.problems[0].startswith("m:latest: the file ends")
    for name in ("m:latest", "m"):
        with pytest.raises(ModelFileError, match="can't be served"):
            found.resolve(name)


def test_a_pull_by_ollama_is_noticed(ollama: Ollama) -> None:
    found = catalog(ollama.store)
    assert ids(found) == []
    ollama.add("registry.ollama.ai/library/m/1")
    assert ids(found) == ["m:1"]


@given(digest=st.one_of(st.text(), st.from_regex(r"sha256:[0-9a-f./]{1,80}"), st.just("sha256:" + "../" * 21 + "x")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_digest_leads_out_of_the_store(tmp_path: Path, digest: str) -> None:
    root = tmp_path / "digests"
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    layers = [{"mediaType": MODEL_LAYER, "digest": digest}]
    manifest = root / "manifests" / "registry.ollama.ai" / "library" / "m" / "1"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"layers": layers}))
    listing = Store("ollama", root, "ollama").look()
    assert listing.candidates == []
    blobs = (root / "blobs").resolve()
    watched = [path for path in listing.watched if "sha256" in path.name]
    assert all(path.parent.resolve() == blobs for path in watched) or not DIGEST.fullmatch(digest)


# --- all of them -----------------------------------------------------------------------------------------------------


def test_stores_come_after_the_folder_and_in_their_order(tmp_path: Path, hub: Hub) -> None:
    own = RawGguf().write(tmp_path / "models" / "chat" / "zzz.gguf")
    hub.add("org/name", "m-Q8_0.gguf")
    studio = tmp_path / "studio"
    RawGguf().write(studio / "org" / "name" / "m-Q8_0.gguf")
    RawGguf().write(tmp_path / "more" / "zzz.gguf")
    stores = (hub.store, Store("lmstudio", studio, "lmstudio"), Store(str(tmp_path / "more"), tmp_path / "more"))
    found = catalog(*stores, directory=tmp_path / "models")
    assert ids(found) == ["org/name:Q8_0", "zzz"]
    assert (found.specs()["zzz"].path, found.default) == (str(own), "zzz")
    assert found.specs()["org/name:Q8_0"].meta["store"] == "huggingface"
    assert [problem.split(": ")[0] for problem in found.problems] == [
        str(studio / "org" / "name" / "m-Q8_0.gguf"),
        str(tmp_path / "more" / "zzz.gguf"),
    ]
    assert "is already served as 'org/name:Q8_0'" in found.problems[0]


def test_a_definition_gives_a_model_of_a_store_settings(hub: Hub) -> None:
    hub.add("org/name", "m-Q8_0.gguf")
    definition = ModelDefinition("org/name:Q8_0", "engine", aliases=("m",), settings={"threads": 1}, tags=("t",))
    found = catalog(hub.store, definitions={definition.id: definition})
    spec = found.resolve("m")
    assert (spec.id, spec.settings, spec.tags) == ("org/name:Q8_0", {"threads": 1}, ("t",))
    assert found.resolve("org/name").id == spec.id


@pytest.mark.parametrize("layout", ["ollama", "huggingface", "lmstudio", "plain", "kinds"])
def test_a_path_is_listed_as_what_it_is(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "store"
    match layout:
        case "ollama":
            Ollama(root).add("registry.ollama.ai/library/m/1")
            expected = "m:1"
        case "huggingface":
            Hub(root).add("org/name", "m-Q8_0.gguf")
            expected = "org/name:Q8_0"
        case "lmstudio":
            RawGguf().write(root / "org" / "name" / "m-Q8_0.gguf")
            expected = "org/name:Q8_0"
        case "plain":
            RawGguf().write(root / "any folder" / "m.gguf")
            expected = "m"
        case _:
            RawGguf().write(root / "embedding" / "m.gguf")
            expected = "m"
    found = catalog(*find_stores([str(root)], {}, Path("/base")))
    assert (ids(found), found.problems) == ([expected], ())
    assert found.specs()[expected].meta["store"] == str(root)
    assert (found.specs()[expected].kind is ModelKind.EMBEDDING) is (layout == "kinds")


def test_a_folder_that_turns_out_to_be_a_store_later(tmp_path: Path) -> None:
    root = tmp_path / "store"
    clock = Clock()
    found = catalog(*find_stores([str(root)], {}, Path("/base")), clock=clock)
    assert ids(found) == []
    assert "is no folder" in found.problems[0]
    (root / "org" / "name").mkdir(parents=True)
    clock.settle()
    assert (ids(found), found.problems) == ([], ())
    RawGguf().write(root / "org" / "name" / "m-Q8_0.gguf")
    clock.settle()
    assert ids(found) == ["org/name:Q8_0"]


def test_where_the_programs_keep_their_models(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}

    def directory(name: str, **environ: str) -> Path:
        (store,) = find_stores([name], {**home, **environ}, Path("/base"))
        assert (store.name, store.layout) == (name, name)
        return store.directory

    assert directory("huggingface") == tmp_path / ".cache/huggingface/hub"
    assert directory("huggingface", XDG_CACHE_HOME="/x") == Path("/x/huggingface/hub")
    assert directory("huggingface", HF_HOME="/h", XDG_CACHE_HOME="/x") == Path("/h/hub")
    assert directory("huggingface", HF_HUB_CACHE="~/c", HF_HOME="/h") == tmp_path / "c"
    assert directory("ollama") == tmp_path / ".ollama/models"
    assert directory("ollama", OLLAMA_MODELS="/o") == Path("/o")
    assert directory("lmstudio") == tmp_path / ".lmstudio/models"
    (tmp_path / ".cache/lm-studio/models").mkdir(parents=True)
    assert directory("lmstudio") == tmp_path / ".cache/lm-studio/models"
    (tmp_path / ".lmstudio/models").mkdir(parents=True)
    assert directory("lmstudio") == tmp_path / ".lmstudio/models"
    paths = find_stores(["gguf", "~/more", "/abs", "gguf"], home, Path("/base"))
    assert [store.directory for store in paths] == [Path("/base/gguf"), tmp_path / "more", Path("/abs")]


def test_nothing_is_written_into_a_store(hub: Hub) -> None:
    hub.add("org/name", "m-Q8_0.gguf")
    before = {path: path.lstat().st_mtime_ns for path in hub.root.rglob("*")}
    catalog(hub.store).refresh()
    assert {path: path.lstat().st_mtime_ns for path in hub.root.rglob("*")} == before
