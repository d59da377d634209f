"""Commands that talk to a running server: what they ask, what they print, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from localllm.cli.api import ServerApi, check_url
from localllm.cli.find_server import CLIENT_KEY, choose_key, find_server, own_address
from localllm.cli.output import format_seconds
from localllm.config.errors import ConfigError
from localllm.config.schema import ServerSection
from tests.cli.kit import run
from tests.stub_server import Stub


def test_ps_shows_what_is_loaded(stub: Stub) -> None:
    status: dict[str, Any] = {
        "in_flight": 1,
        "waiting": 2,
        "memory": {"total_bytes": 1_500_000_000},
        "loaded_for_seconds": 200.0,
        "expires_in_seconds": 7300.0,
        "worker_pid": 42,
        "instances": [
            {"loaded_for_seconds": 200.0, "worker_pid": 42},
            {"loaded_for_seconds": 3.0, "worker_pid": 43},
            {"loaded_for_seconds": None, "worker_pid": None},
        ],
    }
    data = [{"id": "big", "type": "chat", "state": "ready", "status": status}, {"id": "no", "state": "unloaded"}]
    stub.answers["GET /v1/models"] = 200, {"data": data}
    lines = run("models", "ps", "--url", stub.url).output.splitlines()
    assert " ".join(lines[0].split()) == "MODEL KIND STATE INSTANCES RUNNING WAITING MEMORY LOADED FOR EXPIRES IN PID"
    assert lines[1].split() == ["big", "chat", "ready", "2", "1", "2", "1.5", "GB", "3", "min", "2.0", "h", "42,", "43"]
    assert len(lines) == 2
    assert json.loads(run("models", "ps", "--json", "--url", stub.url).output) == data[:1]


def test_ps_of_a_server_that_has_loaded_nothing(stub: Stub) -> None:
    stub.answers["GET /v1/models"] = 200, {"data": []}
    assert "no model is loaded" in run("models", "ps", "--url", stub.url).stderr
    assert json.loads(run("models", "ps", "--json", "--url", stub.url).output) == []


def test_load_and_unload_ask_for_what_the_flags_say(stub: Stub) -> None:
    stub.answers["POST /v1/models/load"] = 200, {"id": "tiny", "state": "ready"}
    stub.answers["POST /v1/models/unload"] = 200, {"id": "tiny", "state": "unloaded"}
    assert run("models", "load", "t", "--url", stub.url).output == "tiny: ready\n"
    run("models", "load", "t", "--ttl", "60", "--pin", "--url", stub.url)
    assert run("models", "unload", "t", "--url", stub.url).output == "tiny: unloaded\n"
    answer = run("models", "unload", "t", "--force", "--json", "--url", stub.url).output
    assert json.loads(answer) == {"id": "tiny", "state": "unloaded"}
    assert [body for _, body in stub.asked] == [
        {"model": "t"},
        {"model": "t", "ttl_seconds": 60.0, "pinned": True},
        {"model": "t"},
        {"model": "t", "force": True},
    ]


def test_reload_prints_keys(stub: Stub) -> None:
    answer = {"applied": ["server.api_keys"], "needs_restart": ["server.port"], "warnings": ["m.gguf: cut"]}
    stub.answers["POST /v1/admin/reload"] = 200, answer
    result = run("reload", "--url", stub.url)
    assert result.stdout == "applied: server.api_keys\nchanges only by a restart: server.port\n"
    assert result.stderr == "problem: m.gguf: cut\n"
    assert json.loads(run("reload", "--json", "--url", stub.url).stdout) == answer


@pytest.mark.parametrize("command", [["models", "ps"], ["models", "load", "x"], ["models", "unload", "x"], ["reload"]])
def test_exit_codes_of_failures(command: list[str], stub: Stub, silent_port: int) -> None:
    stub.answers.clear()
    assert "no such thing" in run(*command, "--url", stub.url, code=1).stderr
    assert "is no address of a server" in run(*command, "--url", "ftp://x", code=2).stderr
    assert "server.port: must be at most" in run(*command, "--set", "server.port=70000", code=2).stderr
    sentence = f"no server answers at http://127.0.0.1:{silent_port}; start one with `localllm serve`"
    assert sentence in run(*command, "--set", f"server.port={silent_port}", code=3).stderr


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"\xff", b""])
def test_what_is_no_server_of_ours_is_said(stub: Stub, body: bytes) -> None:
    stub.answers["GET /v1/models"] = 200, body
    assert "is not what a localllm server would say" in run("models", "ps", "--url", stub.url, code=3).stderr
    stub.answers["GET /health"] = 200, body
    assert not ServerApi(stub.url).answers()


def test_the_configurations_key_and_address_are_used(stub: Stub, home: Path) -> None:
    stub.key = "sk-config"
    port = stub.url.rpartition(":")[2]
    (home / "localllm.toml").write_text(f'[server]\nport = {port}\napi_keys = ["sk-config", "sk-other"]')
    run("models", "ps")
    stub.key = "sk-mine"
    assert "a key is needed" in run("models", "ps", code=1).stderr


def test_a_broken_plugin_table_does_not_keep_commands_from_the_server(stub: Stub, home: Path) -> None:
    (home / "localllm.toml").write_text("[plugin.nonsense]\nx = 1")
    run("models", "ps", "--url", stub.url)


def test_variables_name_server_and_key(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.key = "sk-mine"
    monkeypatch.setenv("LOCALLLM_URL", stub.url)
    monkeypatch.setenv(CLIENT_KEY, "sk-mine")
    run("models", "ps")


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("http://127.0.0.1:8000", "sk"),
        ("http://localhost:9999", "sk"),
        ("http://[::1]:1", "sk"),
        ("http://10.0.0.5:8000", "sk"),
        ("http://other.example", None),
        ("http://10.0.0.5.evil.example", None),
        ("https://127.0.0.1.evil.example", None),
    ],
)
def test_the_configurations_key_goes_to_no_other_host(address: str, key: str | None) -> None:
    server = ServerSection(host="10.0.0.5", api_keys=["sk", "other"])
    assert choose_key(address, server, {}) == key
    assert choose_key(address, server, {CLIENT_KEY: "mine"}) == "mine"


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("127.0.0.1", 8000, "http://127.0.0.1:8000"),
        ("0.0.0.0", 1, "http://127.0.0.1:1"),
        ("::", 2, "http://[::1]:2"),
        ("[::1]", 3, "http://[::1]:3"),
        ("my.host", 4, "http://my.host:4"),
    ],
)
def test_the_address_that_a_configuration_makes(host: str, port: int, address: str) -> None:
    assert own_address(ServerSection(host=host, port=port)) == address


def test_a_port_that_only_the_server_knows_must_be_named() -> None:
    with pytest.raises(ConfigError, match="name it with --url"):
        find_server(None, None, ["server.port=0"], {})


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://h:1/", "http://h:1"),
        ("http://h:1/v1", "http://h:1"),
        ("https://h/behind/proxy/v1/", "https://h/behind/proxy"),
    ],
)
def test_addresses_as_people_write_them(given: str, url: str) -> None:
    assert check_url(given) == url


@pytest.mark.parametrize("given", ["", "http://", "ftp://h", "http://h:x", "http://h:0", "http://h?q", "http://u@h"])
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        check_url(given)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.2, "0 s"), (119, "119 s"), (120, "2 min"), (3599, "60 min"), (5400, "1.5 h"), (172_800, "2 d")],
)
def test_durations_for_people(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text
