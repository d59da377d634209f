"""``https:``, ``http:`` and ``file:``: what a reference is taken for."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm import InvalidRequestError, PullError
from localllm.config.schema import Config
from localllm.plugin_manager import load_plugins
from localllm_sources.disk import make_source
from localllm_sources.web import make_http, make_https

HASH = "a" * 64


def test_a_url_is_taken_as_it_is() -> None:
    (file,) = make_https({}).resolve("//host/a%20b/model%2Bx.gguf?download=true").files
    assert (file.url, file.name) == ("https://host/a%20b/model%2Bx.gguf?download=true", "model+x.gguf")
    assert file.sha256 is None
    assert make_http({}).resolve("//nas.lan/m.gguf").files[0].url == "http://nas.lan/m.gguf"


def test_a_hash_behind_the_url() -> None:
    (file,) = make_https({}).resolve(f"//host/m.gguf#sha256={HASH.upper()}").files
    assert (file.url, file.sha256) == ("https://host/m.gguf", HASH)


@pytest.mark.parametrize("fragment", ["sha256=abc", f"md5={HASH}", HASH, "sha256", f"sha256={HASH}0"])
def test_another_fragment_is_refused_rather_than_left_out(fragment: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not understood"):
        make_https({}).resolve(f"//host/m.gguf#{fragment}")


def test_one_part_brings_all_of_them() -> None:
    files = make_https({}).resolve("//host/x/m-00002-of-00003.gguf?t=1").files
    assert [file.url for file in files] == [f"https://host/x/m-0000{n}-of-00003.gguf?t=1" for n in (1, 2, 3)]
    with pytest.raises(InvalidRequestError, match="is one of 3 parts"):
        make_https({}).resolve(f"//host/m-00001-of-00003.gguf#sha256={HASH}")


@pytest.mark.parametrize("form", ["{}", "//{}"])
def test_a_file_by_its_path(tmp_path: Path, form: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    (file,) = make_source({}).resolve(form.format(path)).files
    assert (file.path, file.name) == (str(path), "m.gguf")


def test_all_parts_of_a_split_file(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(b"GGUF")
    assert len(make_source({}).resolve(str(tmp_path / "m-00001-of-00002.gguf")).files) == 2
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(PullError, match=r"m-00002-of-00002\.gguf is not there"):
        make_source({}).resolve(str(tmp_path / "m-00001-of-00002.gguf"))


@pytest.mark.parametrize("reference", ["relative.gguf", "", "//host/share/m.gguf", "../m.gguf"])
def test_paths_that_are_not_absolute(reference: str) -> None:
    with pytest.raises(InvalidRequestError, match="write file:/path"):
        make_source({}).resolve(reference)


def test_the_plugin_registers_its_sources_and_imports_no_hub() -> None:
    plugins = load_plugins()
    plugins.register(Config())
    assert list(plugins.sources) == ["hf", "https", "http", "file"]
    assert [scheme for scheme, spec in plugins.sources.items() if spec.local] == ["file"]
    assert set(plugins.source_owners.values()) == {"sources"}
