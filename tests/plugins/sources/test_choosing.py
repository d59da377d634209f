"""Which file of a repository is taken."""

from __future__ import annotations

import pytest

from localllm import InvalidRequestError, PullError
from localllm_sources.choosing import HubFile, choose, label_of


def chosen(names: list[str], wanted: str | None = None, default: str = "Q4_K_M") -> list[str]:
    return [file.path for file in choose([HubFile(name) for name in names], wanted, default, "hf:o/r").files]


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("Qwen3-0.6B-Q8_0.gguf", "Q8_0"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("Llama-3-8B.Q4_K_S.gguf", "Q4_K_S"),
        ("m-UD-IQ2_XXS.gguf", "UD-IQ2_XXS"),
        ("m-f16.gguf", "F16"),
        ("m.fp16.gguf", "F16"),
        ("m-BF16-00001-of-00002.gguf", "BF16"),
        ("Q4_K_M/m-00001-of-00002.gguf", "Q4_K_M"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("Q4_K_M.gguf", "Q4_K_M"),
        ("model.gguf", ""),
        ("Qwen3-8B.gguf", ""),
    ],
)
def test_labels(path: str, label: str) -> None:
    assert label_of(path) == label


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-F16.gguf"], None, "m-Q4_K_M.gguf"),
        (["m-Q8_0.gguf", "m-Q4_K_S.gguf", "m-F16.gguf"], None, "m-Q4_K_S.gguf"),
        (["m-F32.gguf", "m-Q2_K.gguf", "m-Q8_0.gguf"], None, "m-Q8_0.gguf"),
        (["m-F16.gguf", "m-F32.gguf"], None, "m-F16.gguf"),
        (["m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"], None, "m-Q4_K_M.gguf"),
        (["m-UD-Q4_K_XL.gguf", "m-Q8_0.gguf"], None, "m-UD-Q4_K_XL.gguf"),
        (["whatever.gguf"], None, "whatever.gguf"),
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf"], "q8_0", "m-Q8_0.gguf"),
        (["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"], "b-Q4_K_M.gguf", "b-Q4_K_M.gguf"),
        (["m-Q4_K_M.gguf", "imatrix-Q4_K_M.gguf", "mmproj-Q4_K_M.gguf", "ggml-vocab-x.gguf"], None, "m-Q4_K_M.gguf"),
    ],
)
def test_the_choice(names: list[str], wanted: str | None, expected: str) -> None:
    assert chosen(names, wanted) == [expected]
    assert chosen(names[::-1], wanted) == [expected]


def test_the_default_can_be_another() -> None:
    assert chosen(["m-Q8_0.gguf", "m-Q4_K_M.gguf"], default="q8_0") == ["m-Q8_0.gguf"]


def test_parts_come_together_and_in_order() -> None:
    names = [f"Q8_0/m-0000{number}-of-00003.gguf" for number in (3, 1, 2)]
    assert chosen(["m-Q4_K_M.gguf", *names], "Q8_0") == sorted(names)


def test_missing_parts_are_told() -> None:
    with pytest.raises(PullError, match="has 1 of the 3 parts"):
        chosen(["m-Q8_0-00002-of-00003.gguf"])


def test_a_quantisation_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(InvalidRequestError, match=r"has no 'Q5_K_M'; it has Q4_K_M, Q8_0\."):
        chosen(["m-Q8_0.gguf", "m-Q4_K_M.gguf"], "Q5_K_M")


def test_several_models_of_one_quantisation_must_be_named() -> None:
    with pytest.raises(InvalidRequestError, match=r"a-Q4_K_M.gguf, b-Q4_K_M.gguf. Name the file: hf:o/r/FILE.gguf"):
        chosen(["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"])


def test_a_repository_without_models() -> None:
    with pytest.raises(PullError, match="has no GGUF model"):
        chosen(["model.safetensors", "mmproj-F16.gguf"])


def test_the_projector_of_the_same_folder_and_of_half_precision() -> None:
    names = ["a/m-Q4_K_M.gguf", "b/mmproj-F16.gguf", "a/mmproj-F32.gguf", "a/mmproj-BF16.gguf"]
    projector = choose([HubFile(name) for name in names], None, "Q4_K_M", "hf:o/r").projector
    assert projector is not None
    assert projector.path == "a/mmproj-BF16.gguf"
