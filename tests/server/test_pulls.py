"""Pulling and deleting over HTTP: progress, one answer, in the background; who may; and requests that wait."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from localllm.config.schema import Config, ModelsSection, ServerSection
from localllm.contract.errors import ModelNotFoundError, UnavailableError
from localllm.contract.fetch import SourceSpec
from localllm.contract.model import Mode, ModelKind, ModelSpec
from localllm.models.catalog import Catalog, CatalogOptions
from localllm.models.fetch.job import FetchPolicy
from localllm.models.pull_options import PullOptions
from localllm.models.pulls import Pulls
from localllm.server.app import build_app
from localllm.server.arriving_models import ArrivingModels
from localllm.server.drain import Drain
from localllm.server.listener import Listener, open_socket
from tests.models.fetch.kit import FileServer, good, model_bytes, serving, status
from tests.models.fetch.test_pulls import Gate, until
from tests.server.kit import FakeHost, FakePlugins, FakeState, Raw, run

pytestmark = pytest.mark.process

DATA = model_bytes(64)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _sources_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


class DiskHost(FakeHost):
    """A registry whose models are the files of a folder; all of them are answered by the same fake client."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.catalog = Catalog(CatalogOptions(directory, backend="fake"))
        self.states = []
        self.unloaded: list[str] = []

    def resolve(self, name: str | None, mode: Mode, purpose: ModelKind | None = None) -> ModelSpec:
        return self.catalog.resolve(name)

    @asynccontextmanager
    async def acquire(
        self,
        name: str | None,
        mode: Mode,
        *,
        autoload: bool = True,
        ttl_seconds: float | None = None,
        affinity: int | None = None,
    ) -> AsyncIterator[Any]:
        self.resolve(name, mode)
        yield self.client

    def list_specs(self) -> list[ModelSpec]:
        return list(self.catalog.specs().values())

    async def unload(self, name: str | None, mode: Mode, *, deadline_seconds: float, force: bool = False) -> bool:
        self.unloaded.append(str(name))
        self.states = []
        return True


class Site:
    """A server with pulls, and a client of it."""

    def __init__(self, directory: Path, *, grace_seconds: float = 60.0, wait: bool = True, **changes: Any) -> None:
        self.directory = directory
        sources = {
            "test": SourceSpec("test", "tests.models.fetch.sources:one_file", example="test:URL"),
            "file": SourceSpec("file", "localllm_sources.disk:make_source", local=True),
        }
        policy = FetchPolicy(private_hosts=True, http_hosts=("127.0.0.1",), reserve_bytes=0)
        options = PullOptions(directory, sources, policy=policy)
        self.disk = DiskHost(directory)
        self.pulls = Pulls(options, on_arrival=self.disk.catalog.look, lone_grace_seconds=grace_seconds)
        self.host = ArrivingModels(self.disk, self.pulls, wait=wait)  # type: ignore[arg-type]
        server = {key: changes.pop(key) for key in list(changes) if key in ServerSection.__dataclass_fields__}
        models = replace(ModelsSection(), directory=directory, **changes)
        self.config = Config(server=replace(ServerSection(), **server), models=models)
        plugins = FakePlugins(self.host)  # type: ignore[arg-type]
        plugins.emit = lambda event: None  # type: ignore[method-assign]
        self.app = build_app(self.config, plugins, self.host, drain=Drain(), pulls=self.pulls)  # type: ignore[arg-type]

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000", timeout=50) as client:
            return await client.request(method, path, **options)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Listener]:
        listener = Listener(self.app, open_socket("127.0.0.1", 0), logger=logging.getLogger("localllm.server"))
        await listener.start()
        try:
            yield listener
        finally:
            await listener.close(0.2)


@asynccontextmanager
async def site(directory: Path, **options: Any) -> AsyncIterator[Site]:
    built = Site(directory / "models", **options)
    try:
        yield built
    finally:
        await built.pulls.close()


def events(body: str) -> list[Any]:
    pieces = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [piece if piece == "[DONE]" else json.loads(piece) for piece in pieces]


def test_a_stream_of_progress(tmp_path: Path, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)

    async def scenario() -> None:
        async with site(tmp_path) as here:
            body = {"source": f"test:{server.origin}/tiny.gguf", "stream": True}
            answer = await here.ask("POST", "/v1/models/pull", json=body)
            assert answer.headers["content-type"].startswith("text/event-stream")
            *progress, last, done = events(answer.text)
            assert done == "[DONE]"
            words = [event["status"] for event in progress]
            assert words[0] == "queued"
            assert set(words) <= {"queued", "resolving", "downloading", "verifying"}
            fields = {"id", "status", "model", "file", "completed", "total", "percent", "speed", "eta_seconds"}
            assert all(set(event) == fields for event in progress)
            assert (last["status"], last["model"], last["kind"], last["percent"]) == ("success", "tiny", "chat", 100.0)
            assert last["files"][0]["name"] == "tiny.gguf"
            listed = (await here.ask("GET", "/v1/models")).json()["data"]
            assert [model["id"] for model in listed] == ["tiny"]

    run(scenario())


def test_one_answer_at_the_end(tmp_path: Path, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)

    async def scenario() -> None:
        async with site(tmp_path) as here:
            body = {"source": f"test:{server.origin}/tiny.gguf", "id": "mine", "kind": "embedding"}
            answer = await here.ask("POST", "/v1/models/pull", json=body)
            assert answer.status_code == 200
            assert (answer.json()["model"], answer.json()["kind"]) == ("mine", "embedding")
            assert answer.json()["verified"] is False
            again = await here.ask("POST", "/v1/models/pull", json=body)
            assert again.json()["fresh"] is False

    run(scenario())
    assert (tmp_path / "models/embedding/mine.gguf").read_bytes() == DATA


def test_in_the_background_and_cancelled(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        async with site(tmp_path, grace_seconds=0.01) as here:
            body = {"source": f"test:{server.origin}/tiny.gguf", "background": True}
            started = await here.ask("POST", "/v1/models/pull", json=body)
            assert (started.status_code, started.json()["status"]) == (202, "queued")
            pull = here.pulls.get(started.json()["id"])
            assert pull
            await until(pull, lambda progress: progress.completed_bytes > 0)
            place = f"/v1/models/pulls/{pull.id}"
            assert (await here.ask("GET", place)).json()["status"] == "downloading"
            listed = (await here.ask("GET", "/v1/models/pulls")).json()["data"]
            assert [pull["id"] for pull in listed] == [started.json()["id"]]
            ended = (await here.ask("DELETE", place)).json()
            gate.opened.set()
            assert (ended["status"], ended["error"]["code"]) == ("cancelled", "pull_cancelled")
            assert (await here.ask("DELETE", place)).json()["status"] == "cancelled"

    run(scenario())
    assert not (tmp_path / "models/chat/tiny.gguf").exists()


def test_errors_are_typed(tmp_path: Path, server: FileServer) -> None:
    server.routes |= {"/gone.gguf": status(404), "/page.gguf": good(b"<html>" * 100)}

    async def scenario() -> None:
        async with site(tmp_path) as here:
            for name, code, number in (("gone", "pull_failed", 502), ("page", "model_file_invalid", 422)):
                body = {"source": f"test:{server.origin}/{name}.gguf"}
                answer = await here.ask("POST", "/v1/models/pull", json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (number, code)
                stream = await here.ask("POST", "/v1/models/pull", json={**body, "stream": True})
                assert events(stream.text)[-1]["error"]["code"] == code
            private = {"source": "test:https://127.0.0.1:1/x.gguf"}
            here.pulls.reconfigure(replace(here.pulls._options, policy=FetchPolicy()))
            refused = await here.ask("POST", "/v1/models/pull", json=private)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "address_refused")
            assert (await here.ask("GET", "/v1/models/pulls/none")).json()["error"]["code"] == "pull_not_found"

    run(scenario())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "source"),
        ({"source": 5}, "source"),
        ({"source": ""}, "source"),
        ({"source": "nothing"}, "source"),
        ({"source": "test:x", "id": 5}, "id"),
        ({"source": "test:x", "id": "../x"}, "id"),
        ({"source": "test:x", "kind": "image"}, "kind"),
        ({"source": "test:x", "kind": ["chat"]}, "kind"),
        ({"source": "test:x", "stream": "yes"}, "stream"),
        ({"source": "test:x", "insecure": True}, "insecure"),
    ],
)
def test_bad_bodies(tmp_path: Path, body: dict[str, Any], param: str) -> None:
    async def scenario() -> None:
        async with site(tmp_path) as here:
            answer = await here.ask("POST", "/v1/models/pull", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
            assert here.pulls.list() == []

    run(scenario())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_lone_client_that_leaves_ends_the_pull_after_a_while(
    tmp_path: Path, server: FileServer, stream: bool, loop: str
) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        async with site(tmp_path, grace_seconds=0.05) as here, here.listening() as listener:
            client = await Raw.connect(listener)
            body = json.dumps({"source": f"test:{server.origin}/tiny.gguf", "stream": stream})
            await client.post("/v1/models/pull", body.encode())
            await gate.reached.wait()
            (pull,) = here.pulls.running()
            client.abort()
            final = [progress async for progress in pull.follow()][-1]
            gate.opened.set()
            assert final.status == "cancelled"

    run(scenario(), loop=loop)


def test_who_may(tmp_path: Path) -> None:
    async def ask(expected: int, *, delete: bool = False, key: str | None = None, **options: Any) -> None:
        async with site(tmp_path, **options) as here:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            method, path = ("DELETE", "/v1/models/tiny") if delete else ("POST", "/v1/models/pull")
            body = {} if delete else {"json": {"source": "nothing"}}
            answer = await here.ask(method, path, headers=headers, **body)
            assert answer.status_code == expected, answer.text

    async def scenario() -> None:
        await ask(400)  # may, but asks for nonsense
        await ask(403, allow_pull=False)
        await ask(403, host="0.0.0.0", allow_public_without_key=True, allowed_hosts=["*"])
        await ask(401, host="0.0.0.0", api_keys=["sesame"], allowed_hosts=["*"])
        await ask(400, host="0.0.0.0", api_keys=["sesame"], allowed_hosts=["*"], key="sesame")
        await ask(403, delete=True)
        await ask(404, delete=True, allow_delete=True)
        everybody = {"host": "0.0.0.0", "allow_public_without_key": True, "allowed_hosts": ["*"]}
        await ask(403, delete=True, allow_delete=True, **everybody)

    run(scenario())


def test_deleting_a_model(tmp_path: Path, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)

    async def scenario() -> None:
        async with site(tmp_path, allow_delete=True) as here:
            await here.pulls.start(f"test:{server.origin}/tiny.gguf").wait()
            here.disk.states = [FakeState("tiny")]
            refused = await here.ask("DELETE", "/v1/models/tiny")
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_busy")
            assert (await here.ask("DELETE", "/v1/models/tiny?force=maybe")).status_code == 400
            gone = await here.ask("DELETE", "/v1/models/tiny?force=true")
            assert gone.json() == {
                "id": "tiny",
                "object": "model",
                "deleted": True,
                "files": ["tiny.gguf"],
                "size": len(DATA),
            }
            assert here.disk.unloaded == ["tiny"]
            assert (await here.ask("DELETE", "/v1/models/tiny")).status_code == 404

    run(scenario())
    assert not (tmp_path / "models/chat/tiny.gguf").exists()


def test_files_beyond_the_models_folder_are_not_deleted(tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "mine.gguf"
    outside.parent.mkdir()
    outside.write_bytes(DATA)

    async def scenario() -> None:
        async with site(tmp_path, allow_delete=True) as here:
            here.disk.catalog = Catalog(CatalogOptions(here.directory, backend="fake", files=(outside,)))
            answer = await here.ask("DELETE", "/v1/models/mine")
            assert answer.status_code == 400
            assert "remove it where it lies" in answer.json()["error"]["message"]

    run(scenario())
    assert outside.exists()


def test_a_request_for_a_model_that_is_being_pulled_waits_for_it(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        async with site(tmp_path, grace_seconds=0.01) as here:
            pull = here.pulls.start(f"test:{server.origin}/tiny.gguf", model_id="small")
            await gate.reached.wait()
            waiting = asyncio.Event()
            watching = pull.watching

            def notice() -> Any:
                waiting.set()
                return watching()

            pull.watching = notice  # type: ignore[method-assign]
            asking = asyncio.create_task(here.ask("POST", "/answer", json={"model": "Small"}))
            await waiting.wait()
            gate.opened.set()
            answer = await asking
            assert answer.json() == {"text": "Hello"}
            assert (await here.ask("POST", "/answer", json={"model": "other"})).status_code == 404

    run(scenario())


def test_the_catalogue_in_force_is_told_before_anybody_hears_of_the_end(tmp_path: Path, server: FileServer) -> None:
    """Neither looks at the disk by itself here, and the configuration changes while the pull is under way."""

    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        async with site(tmp_path) as here:
            pull = here.pulls.start(f"test:{server.origin}/tiny.gguf")
            await until(pull, lambda progress: progress.completed_bytes > 0)
            here.disk.catalog = Catalog(CatalogOptions(here.directory, backend="fake", look_seconds=1e9))
            here.host.reconfigure(here.pulls._options, here.disk.catalog.look, wait=True)
            gate.opened.set()
            async for progress in pull.follow():
                [listed] = (await here.ask("GET", "/v1/models")).json()["data"]
                told = progress, pull.progress  # which may have ended meanwhile
                assert listed["id"] == "tiny"
                assert listed["state"] in {"unloaded" if one.status.is_final else "downloading" for one in told}

    run(scenario())


def test_a_model_that_a_client_pulls_is_listed_with_how_far_it_is(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes |= {"/tiny.gguf": gate, "/gone.gguf": status(404)}
        async with site(tmp_path) as here:
            lost = here.pulls.start(f"test:{server.origin}/gone.gguf", model_id="lost")
            pull = here.pulls.start(f"test:{server.origin}/tiny.gguf", model_id="small", kind=ModelKind.EMBEDDING)
            async for _ in lost.follow():
                pass
            await until(pull, lambda progress: progress.completed_bytes > 0)
            body = (await here.ask("GET", "/v1/models")).json()
            assert body["models"] == [], "Ollama's clients are shown what is there"
            [listed] = body["data"]
            assert (listed["id"], listed["type"], listed["loaded"]) == ("small", "embedding", False)
            assert (listed["state"], listed["status"]["value"]) == ("downloading", "downloading")
            assert (listed["status"]["progress"]["id"], listed["status"]["progress"]["total"]) == (pull.id, len(DATA))
            assert (await here.ask("GET", "/v1/models/Small.gguf")).json()["state"] == "downloading"
            gate.opened.set()
            await pull.wait()
            here.pulls.start(pull.job.source, model_id="small", kind=ModelKind.EMBEDDING)
            states = [(model["id"], model["state"]) for model in (await here.ask("GET", "/v1/models")).json()["data"]]
            assert states == [("small", "unloaded")], "it is there, and may be renewed"

    run(scenario())


def test_a_request_fails_with_the_pull_that_it_waits_for(tmp_path: Path, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = status(404)

    async def scenario() -> None:
        async with site(tmp_path) as here:
            here.pulls.start(f"test:{server.origin}/tiny.gguf", model_id="small")
            answer = await here.ask("POST", "/answer", json={"model": "small"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "pull_failed")

    run(scenario())


def test_or_it_is_told_when_to_come_back(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 33_040)
        server.routes["/tiny.gguf"] = gate
        async with site(tmp_path, wait=False) as here:
            pull = here.pulls.start(f"test:{server.origin}/tiny.gguf", model_id="small")
            async for progress in pull.follow():
                if progress.completed_bytes:
                    break
            answer = await here.ask("POST", "/answer", json={"model": "small"})
            gate.opened.set()
            assert answer.status_code == 503
            assert 5 <= int(answer.headers["retry-after"]) <= 600
            assert "is being fetched (downloading, " in answer.json()["error"]["message"]
            with pytest.raises(UnavailableError):
                async with here.host.acquire("small", Mode.GENERATE):
                    pass

    run(scenario())


def test_a_model_that_is_there_is_not_waited_for_while_it_is_renewed(tmp_path: Path, server: FileServer) -> None:
    server.routes["/tiny.gguf"] = good(DATA)

    async def scenario() -> None:
        async with site(tmp_path) as here:
            await here.pulls.start(f"test:{server.origin}/tiny.gguf").wait()
            gate = Gate(DATA, 20_000)
            server.routes["/other.gguf"] = gate
            here.pulls.start(f"test:{server.origin}/other.gguf", names=["tiny"])
            assert (await here.ask("POST", "/answer", json={"model": "tiny"})).json() == {"text": "Hello"}
            await gate.reached.wait()
            gate.opened.set()

    run(scenario())


def test_without_autoload_nothing_is_waited_for(tmp_path: Path, server: FileServer) -> None:
    async def scenario() -> None:
        gate = Gate(DATA, 20_000)
        server.routes["/tiny.gguf"] = gate
        async with site(tmp_path) as here:
            here.pulls.start(f"test:{server.origin}/tiny.gguf", model_id="small")
            with pytest.raises(ModelNotFoundError):
                async with here.host.acquire("small", Mode.GENERATE, autoload=False):
                    pass
            await gate.reached.wait()
            gate.opened.set()

    run(scenario())


def test_files_of_this_machine_only_as_the_options_say(tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(DATA)

    async def scenario() -> None:
        async with site(tmp_path) as here:
            body = {"source": f"file:{mine}"}
            assert (await here.ask("POST", "/v1/models/pull", json=body)).json()["model"] == "mine"
            here.pulls.reconfigure(replace(here.pulls._options, local_sources=False))
            refused = await here.ask("POST", "/v1/models/pull", json=body)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "source")

    run(scenario())
