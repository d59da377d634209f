"""Models that the configuration gives a source: fetched at the start and after a reload; requests wait, or hear why."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.errors import ModelNotFoundError
from localllm.contract.fetch import PullError
from localllm.contract.model import Mode, ModelDefinition, ModelKind, RequestRules
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.server.defined_models import RETRY_SECONDS, DefinedModels
from tests.models.fetch.kit import FileServer, good, status
from tests.models.fetch.test_pulls import Gate
from tests.server.kit import Raw, run
from tests.server.test_pulls import DATA, Site, _sources_can_be_imported, server, site
from tests.server.test_reload import Reloadable

__all__ = ["_sources_can_be_imported", "server"]  # fixtures

pytestmark = pytest.mark.process

NO_DEFAULTS: Mapping[ModelKind, str | None] = {}


def defined(model_id: str, source: str, **options: Any) -> dict[str, ModelDefinition]:
    return {model_id: ModelDefinition(model_id, backend="fake", source=source, **options)}


def put_in_force(here: Site, definitions: Mapping[str, ModelDefinition], **options: Any) -> None:
    """Do what a start and a reload do with a configuration that has these definitions."""
    options = {"directory": here.directory, "backend": "fake", "definitions": definitions, **options}
    here.disk.catalog = Catalog(CatalogOptions(look_seconds=0, **options))
    here.host.fetch(here.disk.catalog.arriving, here.disk.catalog.configured_defaults)


async def over(here: Site) -> None:
    """Return when nothing is being fetched any more."""
    for pull in here.pulls.running():
        async for _ in pull.follow():
            pass


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "mine.gguf"
    path.parent.mkdir()
    path.write_bytes(DATA)
    return path


def test_a_file_of_this_machine_is_fetched_whatever_clients_may_name(tmp_path: Path, mine: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path) as here:
            here.pulls.reconfigure(replace(here.pulls._options, local_sources=False))
            put_in_force(here, defined("guide", f"file:{mine}", aliases=("gpt",), kind=ModelKind.EMBEDDING))
            assert here.disk.catalog.problems == ()
            await over(here)
            spec = here.disk.catalog.resolve("gpt")
            assert (spec.id, spec.path) == ("guide", str(here.directory / "embedding/guide.gguf"))
            assert here.disk.catalog.arriving == {}
            put_in_force(here, defined("guide", f"file:{mine}"))
            assert here.pulls.running() == [], "a file that is there is not fetched again"

    run(scenario())


@pytest.mark.parametrize("name", ["guide", "GPT", "guide.gguf", None])
def test_requests_wait_by_every_name_and_their_rules_count_already(
    tmp_path: Path, server: FileServer, name: str | None
) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        rules = RequestRules("Be brief.")
        async with site(tmp_path) as here:
            put_in_force(here, defined("guide", f"test:{server.origin}/tiny.gguf", aliases=("gpt",), rules=rules))
            await gate.reached.wait()
            spec = here.host.resolve(name, Mode.GENERATE)
            assert (spec.id, spec.rules, spec.kind) == ("guide", rules, ModelKind.CHAT)
            (pull,) = here.pulls.running()
            waiting = asyncio.Event()
            watching = pull.watching
            pull.watching = lambda: waiting.set() or watching()  # type: ignore[func-returns-value,method-assign]
            body = {} if name is None else {"model": name}
            asking = asyncio.create_task(here.ask("POST", "/answer", json=body))
            await waiting.wait()
            gate.opened.set()
            assert (await asking).json() == {"text": "Hello"}

    run(scenario())


def test_they_are_listed_with_how_far_they_are_and_why_they_failed(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes |= {"/tiny.gguf": gate, "/gone.gguf": status(404)}
        async with site(tmp_path) as here:
            definitions = defined("guide", f"test:{server.origin}/tiny.gguf", aliases=("gpt",), tags=("small",))
            put_in_force(here, definitions | defined("lost", f"test:{server.origin}/gone.gguf"))
            guide, lost = here.pulls.running()
            async for _ in lost.follow():
                pass
            async for progress in guide.follow():
                if progress.completed_bytes:
                    break
            body = (await here.ask("GET", "/v1/models")).json()
            assert body["models"] == [], "Ollama's clients are shown what is there"
            first, second = body["data"]
            assert (first["id"], first["aliases"], first["tags"]) == ("guide", ["gpt"], ["small"])
            assert (first["loaded"], first["state"], first["status"]["value"]) == (False, "downloading", "downloading")
            told = first["status"]["progress"]
            assert (told["id"], told["total"]) == (guide.id, len(DATA))
            assert 0 < told["completed"] < len(DATA)
            assert (second["id"], second["state"], second["status"]["value"]) == ("lost", "failed", "failed")
            assert "404" in second["status"]["error"]
            for name in ("guide", "GPT", "guide.gguf"):
                assert (await here.ask("GET", f"/v1/models/{name}")).json()["state"] == "downloading"
            some = (await here.ask("GET", "/v1/models?state=downloading")).json()["data"]
            assert [model["id"] for model in some] == ["guide"]
            gate.opened.set()
            await over(here)
            states = {model["id"]: model["state"] for model in (await here.ask("GET", "/v1/models")).json()["data"]}
            assert states == {"guide": "unloaded", "lost": "failed"}

    run(scenario())


def test_a_failed_fetch_is_the_servers_error_and_names_source_and_reason(
    tmp_path: Path, server: FileServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        source = f"test:{server.origin}/gone.gguf"
        server.routes["/gone.gguf"] = status(404)
        async with site(tmp_path) as here:
            put_in_force(here, defined("guide", source) | defined("local", "file:/nonexistent/x.gguf"))
            early = await here.ask("POST", "/answer", json={"model": "guide"})
            await over(here)
            late = await here.ask("POST", "/answer", json={"model": "guide"})
            for answer in (early, late):
                error = answer.json()["error"]
                assert (answer.status_code, error["code"], error["source"]) == (502, "pull_failed", source)
                assert error["message"].startswith(f"Model 'guide' could not be fetched from {source}: ")
                assert "404" in error["message"]
            other = (await here.ask("POST", "/answer", json={"model": "local"})).json()["error"]
            assert "/nonexistent/x.gguf is not there" in other["message"]
            assert f"pulling {source} failed" in caplog.text

    run(scenario())


def test_what_is_wrong_with_the_request_for_the_file_is_not_the_callers_fault(
    tmp_path: Path, mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with site(tmp_path) as here:
            put_in_force(here, defined("guide", "nowhere:x") | defined("relative", "file:x.gguf"))
            await over(here)
            assert "model guide can't be fetched from nowhere:x" in caplog.text
            for name in ("guide", "relative"):
                answer = await here.ask("POST", "/answer", json={"model": name})
                error = answer.json()["error"]
                assert (answer.status_code, error["code"], error["reason"]) == (502, "pull_failed", "invalid_request")

    run(scenario())


def test_a_failure_is_tried_again_by_a_reload_and_after_a_while_by_a_request(
    tmp_path: Path, server: FileServer
) -> None:
    async def scenario() -> None:
        now = [0.0]
        definitions = defined("guide", f"test:{server.origin}/tiny.gguf")
        server.routes["/tiny.gguf"] = status(404)
        async with site(tmp_path) as here:
            models = DefinedModels(here.pulls, lambda: now[0])
            models.fetch(definitions, NO_DEFAULTS)
            await over(here)
            with pytest.raises(PullError):
                models.pull_of(definitions["guide"])
            assert here.pulls.running() == []
            models.fetch(definitions, NO_DEFAULTS)
            assert len(here.pulls.running()) == 1
            await over(here)
            with pytest.raises(PullError):
                models.pull_of(definitions["guide"])
            now[0] = RETRY_SECONDS
            server.routes["/tiny.gguf"] = good(DATA)
            pull = models.pull_of(definitions["guide"])
            assert pull is not None
            assert (await pull.wait()).model_id == "guide"
            assert models.pull_of(definitions["guide"]) is None, "it came; where it is now is the catalogue's matter"

    run(scenario())


def test_a_reload_brings_a_model_and_takes_the_fetch_of_another_back(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes |= {"/slow.gguf": gate, "/tiny.gguf": good(DATA)}
        async with site(tmp_path, grace_seconds=0.01) as here:
            first = defined("slow", f"test:{server.origin}/slow.gguf")
            put_in_force(here, first)
            await gate.reached.wait()
            (slow,) = here.pulls.running()
            put_in_force(here, first | defined("guide", f"test:{server.origin}/tiny.gguf"))
            assert slow in here.pulls.running(), "what goes on is not begun again"
            assert len(here.pulls.list()) == 2
            assert (await here.ask("POST", "/answer", json={"model": "guide"})).json() == {"text": "Hello"}
            put_in_force(here, defined("guide", f"test:{server.origin}/tiny.gguf"))
            assert [progress async for progress in slow.follow()][-1].status == "cancelled"
            gate.opened.set()
            assert (await here.ask("POST", "/answer", json={"model": "slow"})).status_code == 404

    run(scenario())


def test_a_clients_pull_of_the_same_goes_on_and_its_file_is_the_models(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        async with site(tmp_path, grace_seconds=0.01) as here:
            source = f"test:{server.origin}/tiny.gguf"
            pull = here.pulls.start(source)
            put_in_force(here, defined("guide", source))
            assert here.pulls.list() == [pull]
            await gate.reached.wait()
            asking = asyncio.create_task(here.ask("POST", "/answer", json={"model": "guide"}))
            gate.opened.set()
            assert (await asking).json() == {"text": "Hello"}
            spec = here.disk.catalog.resolve("tiny")
            assert (spec.id, spec.path) == ("guide", str(here.directory / "chat/tiny.gguf"))

    run(scenario())


def test_without_waiting_they_are_told_when_to_come_back(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        async with site(tmp_path, wait=False) as here:
            put_in_force(here, defined("guide", f"test:{server.origin}/tiny.gguf"), default="guide")
            await gate.reached.wait()
            for body in ({"model": "guide"}, {}):
                answer = await here.ask("POST", "/answer", json=body)
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 5
                assert "Model 'guide' is being fetched" in answer.json()["error"]["message"]
            gate.opened.set()

    run(scenario())


def test_a_model_that_is_preloaded_is_loaded_when_it_has_come(tmp_path: Path, mine: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path) as here:
            put_in_force(here, defined("guide", f"file:{mine}"))
            await here.host.preload([None])
            assert here.disk.asked[-1] == ("preload", "guide")
            assert here.disk.catalog.default == "guide"

    run(scenario())


def test_one_that_came_and_was_removed_is_not_there(tmp_path: Path, mine: Path) -> None:
    async def scenario() -> None:
        async with site(tmp_path) as here:
            put_in_force(here, defined("guide", f"file:{mine}"))
            await over(here)
            (here.directory / "chat/guide.gguf").unlink()
            with pytest.raises(ModelNotFoundError, match="has not been fetched yet"):
                here.host.resolve("guide", Mode.GENERATE)
            put_in_force(here, defined("guide", f"file:{mine}"))
            assert (await here.ask("POST", "/answer", json={"model": "guide"})).json() == {"text": "Hello"}

    run(scenario())


# --- a whole server ---------------------------------------------------------------------------------------------------


async def models_of(found: Reloadable) -> list[str]:
    raw = await Raw.connect(found)  # type: ignore[arg-type]
    await raw.send(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    body = (await raw.rest()).partition(b"\r\n\r\n")[2]
    return [model["id"] for model in json.loads(body)["data"]]


@asynccontextmanager
async def serving_configuration(folder: Path, text: str) -> AsyncIterator[Reloadable]:
    path = folder / "localllm.toml"
    path.write_text(text, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "localllm", "serve", "--config", str(path)), cwd=folder, stdout=PIPE, stderr=PIPE
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


def test_a_server_fetches_at_its_start_and_what_a_changed_file_brings(
    tmp_path: Path, mine: Path, server: FileServer
) -> None:
    server.routes["/far.gguf"] = good(DATA)
    text = (
        "[server]\nport = 0\nshutdown_seconds = 1\n[models]\npull_reserve_megabytes = 0\npull_private_hosts = true\n"
        f'pull_http_hosts = ["127.0.0.1"]\n[models.define.near]\nsource = "file:{mine}"\n'
    )

    async def scenario() -> None:
        async with serving_configuration(tmp_path, f'state_directory = "{tmp_path}/state"\n{text}') as found:
            assert "as near" in await found.logged("pulled file:")
            assert await found.status("/v1/models/near") == 200  # looks at the disk at once, as requests for it do
            assert await models_of(found) == ["near"]
            more = f'[models.define.far]\nsource = "{server.origin}/far.gguf"\n'
            found.write(f'state_directory = "{tmp_path}/state"\n{text}{more}')
            assert "as far" in await found.logged("pulled http")
            assert await found.status("/v1/models/far") == 200
            assert await models_of(found) == ["far", "near"]
            found.process.terminate()
            assert await found.process.wait() == 0

    run(scenario())
    assert (tmp_path / "models/chat/far.gguf").read_bytes() == DATA
