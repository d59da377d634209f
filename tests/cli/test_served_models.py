"""``localllm models list``, ``show``, ``pull`` and ``rm`` for a running server: one that is named, and one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kit import run
from tests.models.raw_gguf import RawGguf
from tests.stub_server import Stub

STATUS = {"in_flight": 1, "waiting": 2, "memory": {"total_bytes": 1_500_000_000}, "expires_in_seconds": 7300.0}
BIG: dict[str, Any] = {
    "id": "org/big",
    "type": "chat",
    "root": "big.gguf",
    "aliases": ["gpt"],
    "tags": ["large"],
    "capabilities": ["completion"],
    "loaded": True,
    "state": "ready",
    "meta": {"quantisation": "Q8_0", "n_params": 1_400_000_000, "size": 1_600_000_000, "n_ctx_train": 4096},
    "status": STATUS,
}
COMING: dict[str, Any] = {
    "id": "coming",
    "type": "chat",
    "loaded": False,
    "state": "downloading",
    "meta": {},
    "status": {"value": "downloading", "progress": {"percent": 12.5}},
}


@pytest.fixture
def stub(stub: Stub) -> Stub:
    stub.answers |= {
        "GET /health": (200, {"status": "ok", "default_model": "org/big"}),
        "GET /v1/models": (200, {"data": [BIG, COMING]}),
        "GET /v1/models/org/big": (200, BIG),
        "GET /v1/models/coming": (200, COMING),
    }
    return stub


@pytest.fixture
def own(home: Path, stub: Stub) -> Path:
    """A model on the disk, and a configuration whose server is the stub."""
    path = home / "models" / "chat" / "m.gguf"
    RawGguf().write(path)
    (home / "localllm.toml").write_text(f"[server]\nport = {stub.url.rpartition(':')[2]}\n")
    on_server = {**BIG, "id": "m", "meta": {"size": path.stat().st_size}}
    stub.answers["GET /v1/models"] = 200, {"data": [on_server, COMING]}
    return path


def test_the_list_of_a_named_server(stub: Stub, home: Path) -> None:
    RawGguf().write(home / "models" / "chat" / "here.gguf")
    lines = run("models", "list", "--url", stub.url).stdout.splitlines()
    assert lines[0].split() == ["MODEL", "KIND", "QUANTISATION", "PARAMETERS", "SIZE", "CONTEXT", "STATE"]
    assert lines[1].split() == ["org/big", "*", "chat", "Q8_0", "1.4", "B", "1.6", "GB", "4096", "ready"]
    assert lines[2].split() == ["coming", "chat", "?", "?", "?", "?", "downloading"]
    assert len(lines) == 3
    listed = json.loads(run("models", "list", "--url", stub.url, "--json").stdout)["data"]
    assert listed == [BIG | {"default": True}, COMING | {"default": False}]


def test_a_named_server_without_models(stub: Stub) -> None:
    stub.answers["GET /v1/models"] = 200, {"data": []}
    assert f"the server at {stub.url} has no models" in run("models", "list", "--url", stub.url).stderr


def test_one_model_of_a_named_server(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALLLM_URL", stub.url)
    facts = dict(line.strip().split(maxsplit=1) for line in run("models", "show", "org/big").stdout.splitlines())
    assert (facts["state"], facts["requests"], facts["memory"]) == ("ready", "1 running, 2 waiting", "1.5 GB")
    assert (facts["aliases"], facts["file"], facts["n_params"]) == ("gpt", "big.gguf", "1.4 B")
    assert json.loads(run("models", "show", "org/big", "--json").stdout) == BIG
    assert "12.5 %" in run("models", "show", "coming").stdout
    assert "no such thing" in run("models", "show", "other", code=1).stderr


def test_states_of_ones_own_server_stand_beside_what_the_disk_tells(own: Path) -> None:
    header, row = run("models", "list").stdout.splitlines()
    assert (header.split()[-1], row.split()[-1]) == ("STATE", "ready")
    (listed,) = json.loads(run("models", "list", "--json").stdout)["data"]
    assert (listed["id"], listed["loaded"], listed["state"], listed["status"]) == ("m", True, "ready", STATUS)
    assert listed["path"] == str(own), "and what only the disk tells"
    assert "1 running, 2 waiting" in run("models", "show", "m").stdout
    assert json.loads(run("models", "show", "m", "--json").stdout)["state"] == "ready"


def test_an_empty_folder_beside_a_server_with_models_points_there(own: Path) -> None:
    assert "other folders" not in run("models", "list").stderr
    own.unlink()
    assert "no models yet" in run("models", "list").stderr
    assert "other folders: see them with --url" in run("models", "list").stderr


@pytest.mark.parametrize("answer", [(401, {}), (200, {"data": [{"no": "id"}]}), (200, {"data": 7}), (200, b"<html>")])
def test_a_server_that_tells_nothing_is_no_reason_to_list_less(own: Path, stub: Stub, answer: Any) -> None:
    stub.answers["GET /v1/models"] = answer
    assert run("models", "list").stdout.splitlines()[0].split()[-1] == "CONTEXT"


def test_a_loaded_model_is_let_go_before_its_file_is_removed(own: Path, stub: Stub) -> None:
    busy = {"error": {"message": "Model 'm' is busy.", "code": "model_busy"}}
    stub.answers["POST /v1/models/unload"] = 409, busy
    assert "is busy" in run("models", "rm", "m", "--yes", code=1).stderr
    assert own.exists()
    stub.answers["POST /v1/models/unload"] = 200, {"id": "m"}
    assert run("models", "rm", "m", "--yes").stdout.startswith("removed m")
    assert not own.exists()
    assert stub.asked[-1] == ("POST /v1/models/unload", {"model": "m"})


def test_a_model_of_the_same_name_that_is_another_stays_loaded(own: Path, stub: Stub) -> None:
    stub.answers["GET /v1/models"] = 200, {"data": [{**BIG, "id": "m"}]}
    run("models", "rm", "m", "--yes")
    assert not own.exists()
    assert stub.asked == [("GET /v1/models", None)]


def test_a_named_server_removes_its_own_and_is_asked_about_first(own: Path, stub: Stub) -> None:
    stub.answers["DELETE /v1/models/org/big"] = 200, {"id": "org/big", "deleted": True, "size": 1_600_000_000}
    refused = run("models", "rm", "org/big", "--url", stub.url, typed="n\n", code=1)
    assert f"Remove org/big (1.6 GB) from {stub.url}?" in refused.output
    assert stub.asked == [("GET /v1/models/org/big", None)]
    assert run("models", "rm", "org/big", "--url", stub.url, "-y").stdout == "removed org/big (1.6 GB)\n"
    answer = run("models", "rm", "org/big", "--url", stub.url, "-y", "--json").stdout
    assert json.loads(answer)["deleted"] is True
    assert own.exists()


def test_a_named_server_lets_a_loaded_model_go_and_removes_it(stub: Stub) -> None:
    loaded = {"error": {"message": "Model 'org/big' is loaded.", "code": "model_busy"}}
    forbidden = {"error": {"message": "Clients may not do this here.", "code": "operation_not_allowed"}}
    stub.answers["DELETE /v1/models/org/big"] = 403, forbidden
    assert "may not do this" in run("models", "rm", "org/big", "-y", "--url", stub.url, code=1).stderr
    stub.answers["DELETE /v1/models/org/big"] = 409, loaded
    stub.answers["POST /v1/models/unload"] = 200, {"id": "org/big"}
    stub.then["POST /v1/models/unload"] = {"DELETE /v1/models/org/big": (200, {"id": "org/big", "size": 5})}
    assert run("models", "rm", "org/big", "-y", "--url", stub.url).stdout == "removed org/big (5 B)\n"
    asked = ["DELETE /v1/models/org/big", "POST /v1/models/unload", "DELETE /v1/models/org/big"]
    assert [path for path, _ in stub.asked[-3:]] == asked
    assert "POST /v1/models/unload" not in [path for path, _ in stub.asked[:-3]], "it may not be removed, and stays"


MOMENT = {"id": "pull-1", "model": "x", "file": "x.gguf", "total": 2000, "speed": 1000, "percent": 50.0}
DONE = {**MOMENT, "object": "model.pull", "status": "success", "completed": 2000, "kind": "chat"}


def test_a_named_server_pulls_into_its_own_folder(stub: Stub, home: Path) -> None:
    moments = [{**MOMENT, "status": "downloading", "completed": 1000}, {**DONE, "fresh": True, "verified": True}]
    stub.streams["/v1/models/pull"] = moments
    result = run("models", "pull", "hf:a/b", "--id", "x", "--url", stub.url)
    assert result.stdout == "x: 2.0 kB, chat, sha256 verified\n"
    assert result.stderr == "downloading x.gguf\n"
    assert stub.asked == [("POST /v1/models/pull", {"source": "hf:a/b", "id": "x", "stream": True})]
    assert not (home / "models").exists()
    result = run("models", "pull", "hf:a/b", "--url", stub.url, "--json")
    assert json.loads(result.stdout) == moments[-1]
    assert result.stderr == ""
    stub.streams["/v1/models/pull"] = [{**DONE, "fresh": False, "verified": True}]
    assert "is there already" in run("models", "pull", "hf:a/b", "--url", stub.url).stdout


@pytest.mark.parametrize("status", [403, 200])
def test_a_pull_that_fails_at_the_server(stub: Stub, status: int) -> None:
    error = {"error": {"message": "Clients may not do this here.", "code": "operation_not_allowed"}}
    if status == 200:  # in the midst of it
        stub.streams["/v1/models/pull"] = [{**MOMENT, "status": "downloading", "completed": 1000}, error]
    else:
        stub.answers["POST /v1/models/pull"] = status, error
    assert "may not do this" in run("models", "pull", "hf:a/b", "--url", stub.url, code=1).stderr
    told = json.loads(run("models", "pull", "hf:a/b", "--url", stub.url, "--json", code=1).stdout)
    assert told["error"]["code"] == "operation_not_allowed"


def test_a_pull_told_in_other_words(stub: Stub) -> None:
    stub.streams["/v1/models/pull"] = [{"status": "teleporting"}]
    assert "doesn't know" in run("models", "pull", "hf:a/b", "--url", stub.url, code=3).stderr


def test_a_named_server_that_is_not_there() -> None:
    for command in (["list"], ["show", "m"], ["pull", "hf:a/b"], ["rm", "m", "-y"]):
        assert "no server answers" in run("models", *command, "--url", "http://127.0.0.1:1", code=3).stderr
