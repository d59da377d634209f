"""A changed configuration while requests go on: applied at one moment, or not at all."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.config.changes import compare
from localllm.config.errors import ConfigError
from localllm.config.schema import Config, LogSection, ModelsSection, ServerSection
from localllm.server.app import build_app
from localllm.server.drain import Drain
from localllm.server.reload import WATCH_SECONDS, ConfigSource, InvalidConfigurationError, Outcome, Reloader, file_stamp
from localllm.server.run import registry_settings
from localllm.server.served_app import ServedApp
from localllm.server.service_manager import ServiceManager
from tests.config.strategies import CONFIGS
from tests.server.kit import FakeHost, FakePlugins, Raw, run, statuses

ROOT = Path(__file__).parents[2]


class Served:
    """A served app whose next configuration is :attr:`fresh`, or the error that reading it raises."""

    def __init__(self, config: Config, fresh: Config | ConfigError | None = None) -> None:
        self.fresh = fresh if fresh is not None else config
        self.reconfigured: list[Config] = []
        self.refuse: Exception | None = None
        self.plugins = FakePlugins(FakeHost())
        source = ConfigSource(self._read, self._catalog, Path("/nowhere/localllm.toml"), None)
        self.app = ServedApp(
            config,
            self.plugins,  # type: ignore[arg-type]
            self.plugins.host,  # type: ignore[arg-type]
            Drain(),
            source=source,
            reconfigure=self._reconfigure,
            manager=ServiceManager({}),
        )

    async def reload(self) -> Outcome:
        assert self.app._reloader is not None
        return await self.app._reloader.reload()

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return await client.request(method, path, **options)

    def _read(self) -> Config:
        if isinstance(self.fresh, ConfigError):
            raise self.fresh
        return self.fresh

    def _catalog(self, config: Config) -> Any:
        return SimpleNamespace(problems=("m.gguf: cut",))

    def _reconfigure(self, config: Config, catalog: Any) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.reconfigured.append(config)


def server(**values: Any) -> Config:
    return Config(server=replace(ServerSection(), **values))


@pytest.fixture(autouse=True)
def quiet_logging() -> Any:
    """Applying a configuration sets the process's logging up; put it back for the other tests."""
    root, ours = logging.getLogger(), logging.getLogger("localllm")
    before = root.handlers, root.level, ours.level
    yield
    root.handlers, _, _ = before
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_keys_limits_and_hosts_apply_to_the_next_request() -> None:
    async def scenario() -> None:
        served = Served(server(), server(api_keys=["new"], max_body_bytes=2000, allowed_hosts=["my.host"]))
        assert (await served.request("POST", "/echo", json={"a": "b" * 3000})).status_code == 200
        outcome = await served.reload()
        assert outcome.applied == ("server.api_keys", "server.allowed_hosts", "server.max_body_bytes")
        assert (await served.request("POST", "/echo", json={})).status_code == 401
        headers = {"authorization": "Bearer new"}
        assert (await served.request("POST", "/echo", json={}, headers=headers)).status_code == 200
        long = await served.request("POST", "/echo", json={"a": "b" * 3000}, headers=headers)
        assert long.status_code == 413
        other = await served.request("GET", "/health", headers={"host": "my.host"})
        assert other.status_code == 200

    run(scenario())


def test_the_endpoint_answers_what_was_done() -> None:
    async def scenario() -> None:
        served = Served(server(), replace(server(port=1, ping_seconds=2.0), log=LogSection(level="debug")))
        answer = await served.request("POST", "/v1/admin/reload")
        assert answer.json() == {
            "applied": ["server.ping_seconds", "log.level"],
            "needs_restart": ["server.port"],
            "unchanged": False,
            "warnings": ["m.gguf: cut"],
        }
        assert logging.getLogger("localllm").level == logging.DEBUG
        again = (await served.request("POST", "/v1/admin/reload", json={})).json()
        assert (again["applied"], again["needs_restart"], again["unchanged"]) == ([], ["server.port"], False)
        served.fresh = served.app.config
        assert (await served.request("POST", "/v1/admin/reload")).json()["unchanged"] is True

    run(scenario())


def test_the_endpoint_asks_for_a_key_and_is_absent_without_a_source() -> None:
    async def scenario() -> None:
        served = Served(server(api_keys=["k"]))
        assert (await served.request("POST", "/v1/admin/reload")).status_code == 401
        assert served.reconfigured == []
        plugins = FakePlugins(FakeHost())
        app = build_app(Config(), plugins, plugins.host)  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.post("/v1/admin/reload")).status_code == 404

    run(scenario())


@pytest.mark.parametrize(
    ("fresh", "refuse", "status", "code"),
    [
        (ConfigError(["a.toml: first", "a.toml: second"]), None, 422, "invalid_configuration"),
        (server(ping_seconds=1.0), ConfigError(["models.catalogue: gone"]), 422, "invalid_configuration"),
        (server(ping_seconds=1.0), ZeroDivisionError(), 500, "internal_error"),
        (server(host="127.0.0.1"), None, 422, "invalid_configuration"),
    ],
    ids=["unreadable", "refused while applied", "bug while applied", "would open the door"],
)
def test_what_is_wrong_changes_nothing(fresh: Any, refuse: Exception | None, status: int, code: str) -> None:
    async def scenario() -> None:
        running = server(host="0.0.0.0", api_keys=["k"], ping_seconds=7.0)
        if refuse is not None:
            fresh_config = replace(fresh, server=replace(fresh.server, host="0.0.0.0", api_keys=["k", "l"]))
        served = Served(running, fresh if refuse is None else fresh_config)
        served.refuse = refuse
        app = served.app._current
        answer = await served.request("POST", "/v1/admin/reload", headers={"x-api-key": "k"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert served.app.config is running
        assert served.app._current is app
        assert served.reconfigured == []
        if isinstance(fresh, ConfigError):
            assert answer.json()["error"]["problems"] == ["a.toml: first", "a.toml: second"]

    run(scenario())


def test_a_file_is_read_when_it_has_changed_and_come_to_rest(tmp_path: Path) -> None:
    path = tmp_path / "localllm.toml"
    path.write_text("")

    def looks(watch: bool = True) -> Any:
        source = ConfigSource(lambda: Config(), lambda config: None, path, file_stamp(path))  # type: ignore[arg-type,return-value]
        return Reloader(
            server(watch_config=watch), source, lambda config, catalog: None, ServiceManager({})
        )._has_changed

    changed, unwatched = looks(), looks(watch=False)
    assert [changed(), changed()] == [False, False]
    path.write_text("a")
    assert changed() is False, "an editor may still be at it"
    path.write_text("ab")
    assert changed() is False
    assert changed() is True
    path.unlink()
    assert [changed(), changed()] == [False, False], "between two files there may be none"
    path.write_text("a")
    assert [changed(), changed()] == [False, True]
    assert [unwatched(), unwatched()] == [False, False]


def shown(app: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Return the stack of an app with what its layers were told, but for objects that are each app's own."""
    own = {"routes", "drain", "emit", "logger", "clock"}
    return [
        (one.cls, {name: value for name, value in one.kwargs.items() if name not in own}) for one in app.user_middleware
    ]


@given(CONFIGS, CONFIGS)
def test_a_reload_leads_where_a_fresh_start_would(running: Config, fresh: Config) -> None:
    async def scenario() -> None:
        served = Served(running, fresh)
        try:
            wanted = compare(running, fresh, ()).config
        except ConfigError:
            with pytest.raises(InvalidConfigurationError):
                await served.reload()
            wanted = running
        else:
            outcome = await served.reload()
            assert bool(served.reconfigured) == bool(outcome.applied)
        started = Served(wanted)
        assert shown(served.app._current) == shown(started.app._current)
        assert served.app.config == wanted
        for config in served.reconfigured:
            assert registry_settings(config) == registry_settings(wanted)
        if served.reconfigured:
            assert logging.getLogger("localllm").level == getattr(logging, wanted.log.level.upper())

    run(scenario())


@given(st.lists(st.sampled_from(["a", "b", "broken", "reload"]), max_size=12))
def test_a_request_is_answered_by_one_configuration(steps: list[str]) -> None:
    """Keys and body limits of configuration a are never met with those of b, whatever comes between."""

    async def scenario() -> None:
        configs: dict[str, Any] = {
            "a": server(api_keys=["a"], max_body_bytes=2000),
            "b": server(api_keys=["b"], max_body_bytes=4000),
            "broken": ConfigError(["broken"]),
        }
        served = Served(configs["a"])
        in_force = "a"
        pending: list[tuple[str, asyncio.Task[httpx.Response]]] = []
        for step in steps:
            if step != "reload":
                served.fresh = configs[step]
                continue
            for key in ("a", "b"):
                body = {"x": "y" * 3000}
                asked = served.request("POST", "/echo", json=body, headers={"x-api-key": key})
                pending.append((in_force + key, asyncio.create_task(asked)))
            await asyncio.sleep(0)
            try:
                await served.reload()
            except InvalidConfigurationError:
                continue
            in_force = next(name for name, config in configs.items() if config is served.fresh)
        for which, task in pending:
            status = (await task).status_code
            # what it met is one of the two: a wrong key, a body that is too long for a, or success with b
            assert status in {"aa": {413, 401}, "ab": {401, 200}, "ba": {401, 413}, "bb": {200, 401}}[which]

    run(scenario())


# --- a real process --------------------------------------------------------------------------------------------------


class Reloadable:
    """A server process, its address and its log, which a test waits for line by line."""

    def __init__(self, process: Process, path: Path) -> None:
        self.process = process
        self.path = path
        self.address = ("127.0.0.1", 0)

    def write(self, text: str) -> None:
        """Replace the file as careful editors do: whole."""
        temporary = self.path.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path)

    async def logged(self, words: str) -> str:
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            async for line in self.process.stderr:
                if words in line.decode():
                    return line.decode()
        raise AssertionError(f"the log ended before {words!r}")

    async def status(self, path: str, key: str = "") -> int:
        raw = await Raw.connect(self)  # type: ignore[arg-type]
        await raw.send(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\nConnection: close\r\n\r\n".encode()
        )
        return statuses(await raw.rest())[0]


BASE = "[server]\nport = 0\nshutdown_seconds = 1\n"


@asynccontextmanager
async def reloadable(folder: Path, text: str = BASE, **environ: str) -> AsyncIterator[Reloadable]:
    path = folder / "localllm.toml"
    path.write_text(text, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.server.serve_reloadable", str(folder / "state"), str(path)),
        cwd=ROOT,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **environ},
    )
    found = Reloadable(process, path)
    try:
        banner = await process.stdout.readline()  # type: ignore[union-attr]
        found.address = ("127.0.0.1", int(banner.split(b"://")[1].split(b" ")[0].rsplit(b":", 1)[1]))
        yield found
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.process
def test_sighup_applies_what_can_change_under_a_running_stream(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with reloadable(tmp_path, BASE + "watch_config = false\n") as found:
            stream = await Raw.connect(found)  # type: ignore[arg-type]
            await stream.post("/stream")
            await stream.until(b'"lo"}\n\n')
            found.write(BASE + 'watch_config = false\napi_keys = ["k"]\nhost = "localhost"\n')
            found.process.send_signal(signal.SIGHUP)
            assert "server.api_keys" in await found.logged("the configuration was changed")
            assert "server.host" in await found.logged("restart the server to change")
            assert [await found.status("/v1/models", key) for key in ("", "k")] == [401, 200]
            found.write("[server\n")
            found.process.send_signal(signal.SIGHUP)
            await found.logged("the configuration was not changed")
            assert "localllm.toml" in await found.logged("localllm.toml")
            assert [await found.status("/v1/models", key) for key in ("", "k")] == [401, 200]
            late = await Raw.connect(found)  # type: ignore[arg-type]
            await late.post("/release", headers="x-api-key: k\r\n")
            assert (await stream.until(b"[DONE]\n\n")).endswith(b"data: [DONE]\n\n")
            found.process.send_signal(signal.SIGTERM)
            assert await found.process.wait() == 0

    run(scenario())


@pytest.mark.process
def test_a_changed_file_is_noticed_and_a_broken_one_is_told_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with reloadable(tmp_path) as found:
            found.write(BASE + 'api_keys = ["k"]\n')
            assert "server.api_keys" in await found.logged("the configuration was changed")
            assert await found.status("/v1/models") == 401
            found.write(BASE + "prot = 1\n")
            assert "did you mean server.port?" in await found.logged("prot")
            await asyncio.sleep(WATCH_SECONDS * 4)  # as much time as it takes to tell of it again and again
            found.write(BASE + "watch_config = false\n")
            line = await found.logged("configuration")
            assert "was changed: server.api_keys, server.watch_config" in line
            assert await found.status("/v1/models") == 200

    run(scenario())


@pytest.mark.process
def test_what_the_file_says_over_http(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with reloadable(tmp_path, BASE + "watch_config = false\n") as found:
            found.write(BASE + "ping_seconds = 1.0\n")
            raw = await Raw.connect(found)  # type: ignore[arg-type]
            await raw.post("/v1/admin/reload", headers="Connection: close\r\n")
            answer = json.loads((await raw.rest()).partition(b"\r\n\r\n")[2])
            assert answer["applied"] == ["server.ping_seconds", "server.watch_config"]
            found.write(BASE + "ping_seconds = 0.0\n")
            raw = await Raw.connect(found)  # type: ignore[arg-type]
            await raw.post("/v1/admin/reload", headers="Connection: close\r\n")
            error = json.loads((await raw.rest()).partition(b"\r\n\r\n")[2])["error"]
            assert error["problems"] == ["localllm.toml: server.ping_seconds: must be at least 0.05, not 0.0"]

    run(scenario())


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP and no pseudo-terminals")
@pytest.mark.parametrize("under_nohup", [False, True])
def test_a_server_ends_with_its_terminal_unless_it_was_started_under_nohup(tmp_path: Path, under_nohup: bool) -> None:
    import pty

    path = tmp_path / "localllm.toml"
    path.write_text(BASE, encoding="utf-8")
    command = [sys.executable, "-m", "tests.server.serve_reloadable", str(tmp_path / "state"), str(path)]
    # A session whose terminal is our pseudo-terminal; stdout is a pipe, so that we can read when the server is there.
    starter = (
        "import fcntl, os, signal, sys, termios\n"
        "os.setsid()\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        f"signal.signal(signal.SIGHUP, signal.SIG_IGN if {under_nohup} else signal.SIG_DFL)\n"
        f"os.execv(sys.executable, {command!r})\n"
    )

    async def scenario() -> None:
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", starter), cwd=ROOT, stdin=slave, stdout=PIPE, stderr=PIPE
        )
        os.close(slave)
        try:
            await process.stdout.readline()  # type: ignore[union-attr]
            os.close(master)  # the kernel hangs up, and says SIGHUP to the session
            words = "read again" if under_nohup else "shutting down"
            assert words in await Reloadable(process, path).logged(words)
            if under_nohup:
                process.terminate()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    run(scenario())


def test_models_of_the_fresh_configuration_are_what_the_registry_gets() -> None:
    async def scenario() -> None:
        fresh = Config(models=replace(ModelsSection(), max_queue=3, define={"m": {"path": "x"}}))
        served = Served(Config(), fresh)
        assert (await served.reload()).applied == ("models.max_queue", "models.define.m")
        [config] = served.reconfigured
        assert config.models == fresh.models

    run(scenario())
