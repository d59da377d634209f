"""The list of models that can be pulled by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.config.schema import Config
from localllm.contract.model import ModelKind
from localllm.models.fetch.names import check_model_id
from localllm.models.known import KnownModelsError, read_known_models
from localllm.models.pull_options import PullOptions, make_job
from localllm.plugin_manager import load_plugins


def test_the_list_in_the_package_is_sound() -> None:
    models = read_known_models().models
    plugins = load_plugins()
    plugins.register(Config())
    assert 10 <= len(models) <= 40
    assert {model.kind for model in models.values()} == set(ModelKind)
    for name, model in models.items():
        assert name == model.name == check_model_id(name)
        assert model.license and model.about and model.size_megabytes
        options = PullOptions(Path(), plugins.sources, known=read_known_models())
        job = make_job(options, name)
        assert (job.model_id, job.source, job.kind) == (name, model.source, model.kind)


def test_the_configuration_adds_to_it_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "more.toml"
    path.write_text('[Mine]\nsource = "https://host/m.gguf"\n["qwen3-0.6b"]\nsource = "hf:a/b"\nkind = "reranker"\n')
    models = read_known_models(path)
    mine, qwen = models.find("mine"), models.find("QWEN3-0.6B")
    assert mine is not None and mine.source == "https://host/m.gguf"
    assert qwen is not None and (qwen.source, qwen.kind) == ("hf:a/b", ModelKind.RERANKER)
    assert len(models.models) == len(read_known_models().models) + 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[a", "not valid TOML"),
        ("a = 1", r"\[a\]: a model is a table"),
        ("[a]", "source is None"),
        ('[a]\nsource = "x"', "source is 'x'"),
        ('["../x"]\nsource = "hf:a/b"', "can't be the id"),
        ('[a]\nsource = "hf:a/b"\nkind = "image"', "'image' is not a valid ModelKind"),
        ('[a]\nsource = "hf:a/b"\nsize = 5', "unknown key 'size'"),
        ('[a]\nsource = "hf:a/b"\nsize_megabytes = -1', "must be a positive number"),
    ],
)
def test_what_is_wrong_is_told_with_its_file(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "more.toml"
    path.write_text(text)
    with pytest.raises(KnownModelsError, match=sentence) as caught:
        read_known_models(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KnownModelsError, match="can't be read"):
        read_known_models(tmp_path / "none.toml")
