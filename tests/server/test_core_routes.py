"""Models, health, readiness and versions as callers see them."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import version

import httpx
import pytest

from localllm.contract.backend import BackendSpec
from localllm.contract.errors import ModelNotFoundError
from localllm.contract.model import Mode, ModelInfo, ModelKind, ModelSpec
from localllm.server.model_host import find_spec
from tests.server.kit import EMBEDDER, FakeHost, FakePlugins, FakeState, Kit, make_kit, run


def get(kit: Kit, path: str) -> httpx.Response:
    return run(kit.request("GET", path))


def test_model_list() -> None:
    body = get(make_kit(), "/v1/models").json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["demo", "org/name:Q4", "embedder"]
    demo, nested, embedder = body["data"]
    assert demo.pop("status")["value"] == "loaded"
    assert demo == {
        "id": "demo",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "localllm",
        "root": "demo",
        "name": "Demo",
        "type": "chat",
        "aliases": ["d"],
        "tags": [],
        "capabilities": ["completion"],
        "loaded": True,
        "state": "ready",
        "pinned": False,
        "ttl_seconds": None,
        "defaults": [],
        "forced": [],
        "max_model_len": 256,
        "meta": {"name": "Demo", "n_ctx_train": 512},
    }
    assert (nested["loaded"], nested["state"], nested["max_model_len"]) == (False, "unloaded", None)
    assert (embedder["type"], embedder["name"]) == ("embedding", "embedder")


def test_context_length_of_the_file_until_the_model_is_loaded() -> None:
    kit = make_kit()
    kit.host.states = [FakeState("demo", "loading", info=None)]
    model = get(kit, "/v1/models/demo").json()
    assert (model["loaded"], model["state"], model["max_model_len"]) == (False, "loading", 512)


def test_a_model_loaded_in_one_mode_counts_as_loaded() -> None:
    kit = make_kit()
    failed = FakeState("demo", "failed", info=None)
    loaded = FakeState("demo", info=ModelInfo(context_length=99, n_vocab=8, meta={"n_ctx_train": 7}))
    for states in ([failed, loaded], [loaded, failed]):
        kit.host.states = states
        model = get(kit, "/v1/models/demo").json()
        assert (model["state"], model["max_model_len"], model["meta"]["n_ctx_train"]) == ("ready", 99, 7)


@pytest.mark.parametrize(
    ("path", "found"),
    [("demo", "demo"), ("d", "demo"), ("org/name:Q4", "org/name:Q4"), ("org%2Fname%3AQ4", "org/name:Q4"),
     ("embedder", "embedder")],
)  # fmt: skip
def test_one_model(path: str, found: str) -> None:
    assert get(make_kit(), f"/v1/models/{path}").json()["id"] == found


def test_of_a_model_that_is_loaded_twice_the_mode_that_writes_is_shown() -> None:
    kit = make_kit()
    writes = FakeState("demo", info=ModelInfo(context_length=99, n_vocab=8))
    pools = FakeState("demo", mode=Mode.POOL, info=ModelInfo(context_length=7, n_vocab=8))
    for states in ([writes, pools], [pools, writes]):
        kit.host.states = states
        assert get(kit, "/v1/models/demo").json()["max_model_len"] == 99
    kit.host.states = [FakeState("demo", "unloaded", info=None), pools]
    model = get(kit, "/v1/models/demo").json()
    assert (model["loaded"], model["state"], model["max_model_len"]) == (True, "ready", 7)


def test_unknown_model() -> None:
    error = get(make_kit(), "/v1/models/org/other").json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_health() -> None:
    body = get(make_kit(), "/health").json()
    assert body == {"status": "ok", "default_model": "demo", "models": ["demo", "org/name:Q4", "embedder"]}


def test_health_without_a_chat_model() -> None:
    def resolve(name: str | None, mode: Mode) -> ModelSpec:
        raise ModelNotFoundError("there is no chat model")

    kit = make_kit()
    kit.host.specs = [EMBEDDER]
    kit.host.resolve = resolve  # type: ignore[method-assign]
    response = get(kit, "/health")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "default_model": None, "models": ["embedder"]}


def test_health_tells_of_safe_mode() -> None:
    kit = make_kit()
    kit.host.states = [FakeState("demo", safe_mode=True), FakeState("demo", safe_mode=True), FakeState("embedder")]
    body = get(kit, "/health").json()
    assert body["status"] == "ok"
    assert body["safe_mode"] == ["demo"]
    assert "safe mode" in body["note"]


def test_draining_shows_in_health_and_ready() -> None:
    kit = make_kit()
    assert get(kit, "/ready").json() == {"status": "ready"}
    kit.drain.draining = True
    health, ready = get(kit, "/health"), get(kit, "/ready")
    assert (health.status_code, health.json()["status"]) == (200, "draining")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "service_unavailable")
    assert int(ready.headers["retry-after"]) > 0


def test_version() -> None:
    assert get(make_kit(), "/version").json() == {
        "version": version("localllm"),
        "python": platform.python_version(),
        "backends": {"fake": "fake 1.0 (abc123)"},
    }


def test_version_of_an_engine_whose_library_is_missing() -> None:
    def missing() -> str:
        raise ModuleNotFoundError("the library is not installed")

    backend = BackendSpec("fake", frozenset({Mode.GENERATE}), factory="a:b", build_id=missing)
    response = get(make_kit(plugins=FakePlugins(FakeHost(), backends={"fake": backend})), "/version")
    assert response.status_code == 200
    assert response.json()["backends"] == {"fake": None}


def test_an_id_counts_more_than_another_models_alias() -> None:
    host = FakeHost(ModelSpec("a", "fake", kind=ModelKind.RERANKER, aliases=("b",)), replace(EMBEDDER, id="b"))
    assert find_spec(host, "b").id == "b"


def test_head_is_get_without_a_body() -> None:
    response = run(make_kit().request("HEAD", "/v1/models"))
    assert (response.status_code, response.content) == (200, b"")
