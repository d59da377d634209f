"""Listing, loading and letting go of models over HTTP, and what any request may say about its model."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import pytest

from localllm.contract.errors import InvalidRequestError, ModelBusyError, ModelLoadError, ModelNotLoadedError
from localllm.contract.model import MemoryUse, Mode, ModelInfo
from localllm.server.model_options import read_duration
from tests.server.kit import FakeState, Kit, Raw, make_kit, run

PREFIXES = ["/v1", ""]


def get(kit: Kit, path: str) -> httpx.Response:
    return run(kit.request("GET", path))


def post(kit: Kit, path: str, body: Any) -> httpx.Response:
    return run(kit.request("POST", path, json=body))


# --- lists ---


def test_the_status_of_a_loaded_model() -> None:
    kit = make_kit()
    memory = MemoryUse(1000, 200, 30)
    kit.host.states = [
        FakeState(
            "demo",
            info=ModelInfo(256, 8, memory=memory),
            in_flight=2,
            waiting=1,
            pinned=True,
            ttl_seconds=60.0,
            expires_in_seconds=None,
            loaded_for_seconds=9.5,
            worker_pid=4711,
            memory_bytes=1230,
            memory_estimated_bytes=1100,
            instances=[
                FakeState("demo", number=0, in_flight=2, loaded_for_seconds=9.5, worker_pid=4711, memory_bytes=1230),
                FakeState("demo", number=3, state="failed", info=None, error="its worker ended by SIGKILL"),
            ],
        ),
        FakeState("demo", mode=Mode.POOL, state="failed", info=None, error="no memory"),
        FakeState("embedder", mode=Mode.POOL, state="queued", info=None),
    ]
    demo, nested, embedder = get(kit, "/v1/models").json()["data"]
    *_, pooling = demo["status"].pop("modes")
    assert demo["status"] == {
        "value": "loaded",
        "mode": "generate",
        "in_flight": 2,
        "waiting": 1,
        "pinned": True,
        "ttl_seconds": 60.0,
        "expires_in_seconds": None,
        "loaded_for_seconds": 9.5,
        "worker_pid": 4711,
        "safe_mode": False,
        "memory": {
            "total_bytes": 1230,
            "estimated_bytes": 1100,
            "measured": {"weights_bytes": 1000, "cache_bytes": 200, "compute_bytes": 30},
        },
        "error": None,
        "instances": [
            {
                "number": 0,
                "value": "loaded",
                "in_flight": 2,
                "waiting": 0,
                "expires_in_seconds": None,
                "loaded_for_seconds": 9.5,
                "worker_pid": 4711,
                "memory_bytes": 1230,
                "error": None,
            },
            {
                "number": 3,
                "value": "failed",
                "in_flight": 0,
                "waiting": 0,
                "expires_in_seconds": None,
                "loaded_for_seconds": None,
                "worker_pid": None,
                "memory_bytes": None,
                "error": "its worker ended by SIGKILL",
            },
        ],
    }
    assert (pooling["mode"], pooling["value"], pooling["error"], pooling["memory"]) == (
        "pool",
        "failed",
        "no memory",
        None,
    )
    assert nested["status"] == {"value": "unloaded", "modes": []}
    assert embedder["status"]["value"] == "loading"
    assert get(kit, "/v1/models/demo").json() == get(kit, "/v1/models").json()["data"][0]


@pytest.mark.parametrize(
    ("state", "ids"),
    [
        ("loaded", ["demo"]),
        ("ready", ["demo"]),
        ("unloaded", ["org/name:Q4"]),
        ("failed", ["embedder"]),
        ("queued", []),
    ],
)
def test_models_in_one_state(state: str, ids: list[str]) -> None:
    kit = make_kit()
    kit.host.states.append(FakeState("embedder", mode=Mode.POOL, state="failed", info=None))
    body = get(kit, f"/v1/models?state={state}").json()
    assert [model["id"] for model in body["data"]] == [model["model"] for model in body["models"]] == ids


def test_a_state_that_there_is_not() -> None:
    response = get(make_kit(), "/v1/models?state=asleep")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "state"


def test_the_lists_without_v1() -> None:
    kit = make_kit()
    assert get(kit, "/models").json() == get(kit, "/v1/models").json()
    assert get(kit, "/models/org/name:Q4").json()["id"] == "org/name:Q4"
    instances = [FakeState("demo", number=number, loaded_for_seconds=1.0) for number in range(2)]
    kit.host.states = [FakeState("demo", instances=[*instances, FakeState("demo", number=2, state="loading")])]
    assert get(kit, "/models/list").json() == [
        {"name": "demo", "type": "chat", "loaded": True, "instances": 2},
        {"name": "org/name:Q4", "type": "chat", "loaded": False, "instances": 0},
        {"name": "embedder", "type": "embedding", "loaded": False, "instances": 0},
    ]


# --- loading and letting go ---


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"model": "demo"}, ("load", "demo", Mode.GENERATE, None, None)),
        ({"model": "d", "ttl_seconds": 90, "pinned": True}, ("load", "demo", Mode.GENERATE, 90.0, True)),
        ({"model": "embedder"}, ("load", "embedder", Mode.POOL, None, None)),
        ({"model": "demo", "mode": "pool"}, ("load", "demo", Mode.POOL, None, None)),
        ({"model": "demo", "type": "chat"}, ("load", "demo", Mode.GENERATE, None, None)),
        ({"model": "demo", "type": "embedding", "pinned": None}, ("load", "demo", Mode.POOL, None, None)),
    ],
)
def test_load(prefix: str, body: dict[str, Any], asked: tuple[Any, ...]) -> None:
    kit = make_kit()
    response = post(kit, f"{prefix}/models/load", body)
    assert response.status_code == 200
    assert kit.host.asked == [asked]
    answer = response.json()
    assert (answer["success"], answer["id"], answer["object"]) == (True, asked[1], "model")
    assert "status" in answer


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (
            {"model": "demo"},
            [("unload", "demo", Mode.GENERATE, 30.0, False), ("unload", "demo", Mode.POOL, 30.0, False)],
        ),
        ({"model": "demo", "mode": "pool", "force": True}, [("unload", "demo", Mode.POOL, 0.0, True)]),
        (
            {"model": "d", "type": "chat", "deadline_seconds": 2, "force": True},
            [("unload", "demo", Mode.GENERATE, 2.0, True)],
        ),
        ({"model": "embedder"}, []),
    ],
)
def test_unload(prefix: str, body: dict[str, Any], asked: list[tuple[Any, ...]]) -> None:
    kit = make_kit()
    kit.host.states.append(FakeState("demo", mode=Mode.POOL))
    response = post(kit, f"{prefix}/models/unload", body)
    assert response.status_code == 200
    assert kit.host.asked == asked
    assert response.json()["success"] is True
    assert response.json()["message"] == ("Model unloaded successfully" if asked else "Model was not loaded")


@pytest.mark.parametrize("action", ["load", "unload"])
@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "model"),
        ({"model": 7}, 400, "model"),
        ({"model": ""}, 400, "model"),
        ({"model": "nobody"}, 404, "model"),
        ({"model": "demo", "mode": "sing"}, 400, "mode"),
        ({"model": "demo", "mode": ["pool"]}, 400, "mode"),
        ({"model": "demo", "type": "audio"}, 400, "type"),
    ],
)
def test_what_can_not_be_loaded_or_let_go(action: str, body: dict[str, Any], status: int, param: str) -> None:
    kit = make_kit()
    response = post(kit, f"/v1/models/{action}", body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert kit.host.asked == []


@pytest.mark.parametrize(
    ("action", "field", "value"),
    [
        ("load", "ttl_seconds", -1),
        ("load", "ttl_seconds", "5m"),
        ("load", "pinned", "yes"),
        ("unload", "force", 1),
        ("unload", "deadline_seconds", True),
        ("unload", "deadline_seconds", 3601),
    ],
)
def test_values_that_are_wrong(action: str, field: str, value: object) -> None:
    response = post(make_kit(), f"/v1/models/{action}", {"model": "demo", field: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)


def test_refusals_have_their_status_and_are_not_to_be_repeated() -> None:
    kit = make_kit()
    kit.host.refusal = ModelBusyError("2 requests are in flight", param="model", detail={"in_flight": 2})
    response = post(kit, "/v1/models/unload", {"model": "demo"})
    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
    assert response.json()["error"]["in_flight"] == 2
    kit.host.refusal = ModelLoadError("it is broken")
    assert post(kit, "/v1/models/load", {"model": "demo"}).status_code == 503


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/models/list", "/models/demo"])
def test_models_need_a_key(path: str) -> None:
    kit = make_kit(api_keys=["secret"])
    assert get(kit, path).status_code == 401
    for action in ("load", "unload"):
        assert post(kit, f"/models/{action}", {"model": "demo"}).status_code == 401
    assert kit.host.asked == []


def test_a_client_that_leaves_while_a_model_loads_gets_out_of_the_way() -> None:
    kit = make_kit()
    left = asyncio.Event()
    entered = asyncio.Event()

    async def load(*args: object, **options: object) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    kit.host.load = load  # type: ignore[method-assign]

    async def scenario() -> None:
        async with kit.listening() as listener, asyncio.timeout(20):
            raw = await Raw.connect(listener)
            await raw.post("/v1/models/load", b'{"model": "demo"}')
            await entered.wait()
            raw.abort()
            await left.wait()

    run(scenario())


# --- the start ---


def test_the_server_is_ready_when_what_it_loads_at_the_start_is_loaded() -> None:
    kit = make_kit()
    kit.host.preloading = ["demo", "embedder"]
    response = get(kit, "/ready")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "loading demo, embedder" in response.json()["error"]["message"]
    assert get(kit, "/health").json()["status"] == "ok"
    kit.host.preloading = []
    assert get(kit, "/ready").status_code == 200


# --- what any request may say ---


@pytest.mark.parametrize(
    ("query", "body", "options"),
    [
        ("", {}, (True, None)),
        ("?autoload=false", {}, (False, None)),
        ("?autoload=0", {"autoload": True}, (False, None)),
        ("", {"autoload": False, "ttl": 5}, (False, 5.0)),
        ("", {"autoload": None, "keep_alive": None}, (True, None)),
        ("", {"keep_alive": "5m"}, (True, 300.0)),
        ("", {"keep_alive": -1}, (True, math.inf)),
        ("", {"keep_alive": 0}, (True, 0.0)),
        ("?ttl=90", {"ttl": 5}, (True, 90.0)),
        ("?keep_alive=1h30m", {"ttl": 5}, (True, 5.0)),
        ("?keep_alive=-1m&autoload=TRUE", {}, (True, math.inf)),
    ],
)
def test_loading_and_staying_by_request(query: str, body: dict[str, Any], options: tuple[bool, float | None]) -> None:
    kit = make_kit()
    assert post(kit, f"/answer{query}", body).status_code == 200
    assert kit.host.options == [options]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"autoload": "no"}, "autoload"),
        ({"autoload": 1}, "autoload"),
        ({"ttl": "soon"}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": [5]}, "ttl"),
        ({"keep_alive": "5 minutes"}, "keep_alive"),
    ],
)
@pytest.mark.parametrize("path", ["/answer", "/stream"])
def test_what_is_said_wrongly_is_refused_before_anything_happens(path: str, body: dict[str, Any], param: str) -> None:
    kit = make_kit()
    response = post(kit, path, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert kit.host.options == []


def test_requests_that_begin_alike_say_so() -> None:
    kit = make_kit()
    for prompt in ("word " * 500, "word " * 600, "short"):
        assert post(kit, "/answer", {"prompt": prompt}).status_code == 200
    first, second, third = kit.host.affinities
    assert first == second is not None
    assert third is None


def test_endpoints_that_use_no_model_may_use_these_names_as_they_like() -> None:
    assert post(make_kit(), "/echo", {"ttl": "for ever and a day"}).json() == {"ttl": "for ever and a day"}


def test_a_model_that_is_not_loaded_is_a_conflict() -> None:
    kit = make_kit()
    kit.host.client.pieces = [ModelNotLoadedError("it is not loaded", param="model")]
    response = post(kit, "/answer", {})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "model_not_loaded")
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (2.5, 2.5),
        ("300", 300.0),
        ("1.5h", 5400.0),
        ("1h30m10s500ms", 5410.5),
        (-0.5, math.inf),
        ("-1", math.inf),
        ("-5m", math.inf),
        (1e300, 1e12),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    assert read_duration("ttl", value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "m", "5x", "5m ", "1e5", "--1", "5m-3s", "nan", "٣", None, {}, math.nan, "9" * 400]
)
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"^ttl must be"):
        read_duration("ttl", value)
