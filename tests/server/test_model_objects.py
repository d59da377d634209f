"""Models as ``GET /v1/models`` shows them: what works with each, to OpenAI's clients and to Ollama's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from localllm.contract.errors import ModelUnsupportedError
from localllm.contract.model import Mode, ModelInfo, ModelKind, ModelSpec
from localllm.contract.pooling import PoolingInfo
from localllm.server.model_host import find_spec
from localllm.server.model_objects import capabilities, model_list, model_object
from tests.server.kit import EMBEDDER, FakeHost, make_kit, run

FILE = ModelSpec(
    "org/name:Q8_0",
    "fake",
    created=1_700_000_000,
    tags=("small",),
    ttl_seconds=60.0,
    pinned=True,
    meta={
        "arch": "llama",
        "n_params": 8_030_000_000,
        "size": 8_500_000_000,
        "quantisation": "Q8_0",
        "has_chat_template": True,
        "adapters": ["lora.gguf"],
        "hyperparameters": {"block_count": 32},
    },
)


def info(**options: Any) -> ModelInfo:
    return ModelInfo(**{"context_length": 8, "n_vocab": 8, "has_chat_template": True, **options})


CALLS, THOUGHT = {"style": "json"}, {"open": "<think>", "close": "</think>"}


@pytest.mark.parametrize(
    ("spec", "loaded", "expected"),
    [
        (FILE, None, ["completion", "chat"]),
        (replace(FILE, meta={"has_chat_template": False}), None, ["completion"]),
        (ModelSpec("elsewhere", "http"), None, ["completion", "chat"]),
        (FILE, info(has_chat_template=False), ["completion"]),
        (FILE, info(meta={"chat_format": {"calls": None, "thought": None}}), ["completion", "chat"]),
        (FILE, info(meta={"chat_format": {"calls": CALLS, "thought": None}}), ["completion", "chat", "tools"]),
        (FILE, info(meta={"chat_format": {"calls": None, "thought": THOUGHT}}), ["completion", "chat", "reasoning"]),
        (FILE, info(pooling=PoolingInfo("last", 64)), ["completion", "chat", "embedding"]),
        (EMBEDDER, None, ["embedding", "rerank"]),
        (replace(EMBEDDER, kind=ModelKind.RERANKER), None, ["rerank"]),
        (replace(EMBEDDER, kind=ModelKind.RERANKER), info(pooling=PoolingInfo("rank", 1, "logit")), ["rerank"]),
    ],
)
def test_capabilities_are_what_header_kind_and_loading_tell(
    spec: ModelSpec, loaded: ModelInfo | None, expected: list[str]
) -> None:
    assert capabilities(spec, loaded) == expected


def test_a_model_object_says_how_the_model_is_kept_and_filed() -> None:
    shown = model_object(FILE, None)
    assert (shown["tags"], shown["pinned"], shown["ttl_seconds"]) == (["small"], True, 60.0)
    assert shown["meta"]["adapters"] == ["lora.gguf"]
    assert "hyperparameters" not in shown["meta"], "for engines"


def test_the_list_has_ollamas_shape_too() -> None:
    listed = model_list(FakeHost(FILE, ModelSpec("elsewhere", "http")))
    assert [model["id"] for model in listed["data"]] == ["org/name:Q8_0", "elsewhere"]
    assert listed["models"][0] == {
        "name": "org/name:Q8_0",
        "model": "org/name:Q8_0",
        "modified_at": "2023-11-14T22:13:20+00:00",
        "size": 8_500_000_000,
        "digest": "",
        "type": "model",
        "description": "",
        "tags": ["small"],
        "capabilities": ["completion", "chat"],
        "parameters": "",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "8.0B",
            "quantization_level": "Q8_0",
        },
    }
    assert listed["models"][1]["details"]["families"] == []


@pytest.mark.parametrize(
    ("n_params", "shown"), [(0, ""), (1_900, "2K"), (137_000_000, "137M"), (70_553_000_000, "70.6B")]
)
def test_parameters_are_counted_as_ollama_does(n_params: int, shown: str) -> None:
    spec = replace(FILE, meta={"n_params": n_params})
    assert model_list(FakeHost(spec))["models"][0]["details"]["parameter_size"] == shown


def test_a_model_that_writes_no_text_is_found_in_any_case() -> None:
    class Host(FakeHost):
        def resolve(self, name: str | None, mode: Mode) -> ModelSpec:
            raise ModelUnsupportedError(f"{name} can't write")

    for name in ("Embedder", "EMBEDDER.GGUF", "embedder"):
        assert find_spec(Host(EMBEDDER), name).id == "embedder"


@pytest.mark.parametrize(
    "path", ["m:tag", "org%2Fname:Q8_0", "ORG/NAME:Q8_0", "%00", "x" * 4096, "../../etc/passwd", "%ff"]
)
def test_any_path_is_a_model_or_none(path: str) -> None:
    kit = make_kit()
    kit.host.specs = [FILE, ModelSpec("m:tag", "fake")]
    response = run(kit.request("GET", f"/v1/models/{path}"))
    known = path in ("m:tag", "org%2Fname:Q8_0")
    assert response.status_code == (200 if known else 404)
