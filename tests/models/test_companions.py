"""Projectors and adapters are no models: they are shown with the models that they belong to, and with no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from localllm.models.catalog import Catalog, CatalogOptions
from localllm.models.file_names import plain_name, quantisation_in
from tests.models.raw_gguf import STRING, RawGguf, architecture


def model(name: str = "Tiny", arch: str = "llama") -> RawGguf:
    return architecture(arch).with_pairs(general__name=(STRING, name))


def projector() -> RawGguf:
    return architecture("clip")


def adapter(arch: str = "llama", **pairs: str) -> RawGguf:
    texts = {key: (STRING, value) for key, value in {"general__type": "adapter", **pairs}.items()}
    return architecture(arch).with_pairs(**texts)


def facts(directory: Path) -> dict[str, dict[str, Any]]:
    found = Catalog(CatalogOptions(directory, "engine", look_seconds=0))
    assert found.problems == ()
    return {
        spec.id: {key: spec.meta[key] for key in ("projector", "adapters") if key in spec.meta}
        for spec in found.specs().values()
    }


def test_in_a_folder_of_its_own_all_belongs_to_the_model(tmp_path: Path) -> None:
    home = tmp_path / "chat" / "vision"
    for quantisation in ("Q4_K_M", "Q8_0"):
        model().write(home / f"some-{quantisation}.gguf")
    projector().write(home / "mmproj-F32.gguf")
    projector().write(home / "mmproj-F16.gguf")
    adapter().write(home / "pirate.gguf")
    adapter().write(home / "baker.gguf")
    expected = {"projector": "mmproj-F16.gguf", "adapters": ["baker.gguf", "pirate.gguf"]}
    assert facts(tmp_path) == {"some-Q4_K_M": expected, "some-Q8_0": expected}


def test_an_adapter_of_another_architecture_belongs_to_nobody(tmp_path: Path) -> None:
    model().write(tmp_path / "chat" / "one" / "m.gguf")
    adapter("qwen3").write(tmp_path / "chat" / "one" / "lora.gguf")
    assert facts(tmp_path) == {"m": {}}


def test_among_many_models_the_name_says_it(tmp_path: Path) -> None:
    chat = tmp_path / "chat"
    model("A").write(chat / "Llama-3-8B-Q4_K_M.gguf")
    model("B").write(chat / "Llama-3-8B-Instruct-Q4_K_M.gguf")
    model("C", "qwen3").write(chat / "Qwen3-VL-Q8_0.gguf")
    projector().write(chat / "mmproj-Qwen3-VL-F16.gguf")
    projector().write(chat / "mmproj-unknown-F16.gguf")
    adapter().write(chat / "llama_3_8b-instruct-lora-pirate.gguf")
    adapter().write(chat / "llama-3-8b.lora.f16.gguf")
    assert facts(tmp_path) == {
        "Llama-3-8B-Q4_K_M": {"adapters": ["llama-3-8b.lora.f16.gguf"]},
        "Llama-3-8B-Instruct-Q4_K_M": {"adapters": ["llama_3_8b-instruct-lora-pirate.gguf"]},
        "Qwen3-VL-Q8_0": {"projector": "mmproj-Qwen3-VL-F16.gguf"},
    }


@pytest.mark.parametrize(
    "pairs",
    [
        {"general__base_model__0__name": "Llama 3 8B"},
        {"general__base_model__0__repo_url": "https://example.org/meta/Llama-3-8B/"},
        {"general__basename": "llama-3-8b"},
    ],
)
def test_among_many_models_the_header_may_say_it(tmp_path: Path, pairs: dict[str, str]) -> None:
    model("Llama 3 8B").write(tmp_path / "chat" / "anything.gguf")
    model("Other").write(tmp_path / "chat" / "other.gguf")
    adapter(**pairs).write(tmp_path / "chat" / "pirate.gguf")
    assert facts(tmp_path) == {"anything": {"adapters": ["pirate.gguf"]}, "other": {}}


def test_a_companion_is_never_served_and_names_no_model(tmp_path: Path) -> None:
    adapter().write(tmp_path / "chat" / "m.gguf")
    model().write(tmp_path / "m.gguf")
    assert list(facts(tmp_path)) == ["m"]


def test_companions_stay_with_a_definition(tmp_path: Path) -> None:
    from localllm.contract.model import ModelDefinition

    path = model().write(tmp_path / "chat" / "own" / "m.gguf")
    adapter().write(tmp_path / "chat" / "own" / "lora.gguf")
    definitions = {"named": ModelDefinition("named", "engine", path=str(path))}
    found = Catalog(CatalogOptions(tmp_path, "engine", definitions=definitions, look_seconds=0))
    assert found.specs()["named"].meta["adapters"] == ["lora.gguf"]


@pytest.mark.parametrize(
    ("stem", "quantisation"),
    [
        ("Qwen3-0.6B-Q8_0", "Q8_0"),
        ("model.q4_k_m", "Q4_K_M"),
        ("gemma-3-27b-it-UD-IQ2_XXS", "UD-IQ2_XXS"),
        ("gpt-oss-20b-mxfp4", "MXFP4"),
        ("BF16", "BF16"),
        ("m-fp16", "FP16"),
        ("m-TQ1_0", "TQ1_0"),
        ("Q4_K_M-imat-Q5_K_S", "Q5_K_S"),
        ("Qwen3", None),
        ("IQ-test", None),
        ("deepseek-r1", None),
    ],
)
def test_quantisations_are_read_from_names(stem: str, quantisation: str | None) -> None:
    assert quantisation_in(stem) == quantisation


@given(st.text(max_size=40), st.sampled_from(["Q4_K_M", "IQ3_XS", "f16", "UD-Q2_K_XL"]))
def test_a_plain_name_leaves_the_quantisation_out_whatever_the_name(stem: str, quantisation: str) -> None:
    assume(not stem.lower().endswith("ud"))  # "UD-" is part of a quantisation
    assert plain_name(f"{stem}-{quantisation}") == plain_name(f"{stem}-")
