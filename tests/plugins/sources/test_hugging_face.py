"""``hf:`` from a hub on this machine: the right files, verified, with the token where it belongs, and offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localllm.contract.fetch import FileRole
from localllm.models.fetch_process import fetch_environment
from tests.models.fetch.kit import good, model_bytes, sha256, status
from tests.models.raw_gguf import STRING, architecture
from tests.plugins.sources.fake_hub import COMMIT, FakeHub, running_hub

pytestmark = pytest.mark.process

SMALL = model_bytes(8)
LARGE = model_bytes(16)
PROJECTOR = architecture("clip").with_pairs(general__type=(STRING, "mmproj")).bytes()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


class Puller:
    """Pulls as the server does: in a child process, whose environment is the test's."""

    def __init__(self, directory: Path, hub: FakeHub) -> None:
        self.directory = directory
        self.environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(directory / "hf")}

    def pull(self, reference: str, *, storage_allowed: bool = True, **settings: Any) -> dict[str, Any]:
        job = {
            "source": f"hf:{reference}",
            "reference": reference,
            "factory": "localllm_sources.hugging_face:make_source",
            "directory": str(self.directory / "models"),
            "settings": settings,
            "kind": None,
            "model_id": None,
            "policy": {
                "private_hosts": storage_allowed,
                "http_hosts": ["127.0.0.1"] if storage_allowed else [],
                "stall_seconds": 10.0,
                "min_bytes_per_second": 0.0,
                "reserve_bytes": 0,
                "retries": 0,
            },
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE_"))}
        done = subprocess.run(
            [sys.executable, "-P", "-c", PROGRAM, json.dumps(job)],
            capture_output=True,
            env=fetch_environment(kept | self.environment),
            timeout=50,
        )
        assert done.returncode == 0, done.stderr.decode()
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    @property
    def models(self) -> dict[str, bytes]:
        root = self.directory / "models"
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("*/*.gguf"))}


PROGRAM = """
import json, sys
from localllm.contract.errors import LocalLLMError
from localllm.models.fetch.job import PullJob
from localllm.models.fetch.pull import run_pull
try:
    print(json.dumps(run_pull(PullJob.from_plain(json.loads(sys.argv[1])), lambda progress: None).to_plain()))
except LocalLLMError as error:
    print(json.dumps(error.to_wire()))
"""


@pytest.fixture
def puller(tmp_path: Path, hub: FakeHub) -> Puller:
    return Puller(tmp_path, hub)


def test_the_default_quantisation_with_its_hash(puller: Puller, hub: FakeHub) -> None:
    hub.add("org/tiny-GGUF", {"tiny-Q8_0.gguf": LARGE, "tiny-Q4_K_M.gguf": SMALL, "README.md": b"hello"})
    result = puller.pull("org/tiny-GGUF")
    assert puller.models == {"chat/tiny-Q4_K_M.gguf": SMALL}
    assert result["files"][0]["verified"] is True
    assert result["files"][0]["sha256"] == sha256(SMALL)
    assert result["origin"] == f"hf:org/tiny-GGUF/tiny-Q4_K_M.gguf@{COMMIT}"


@pytest.mark.parametrize("reference", ["org/tiny-GGUF:q8_0", "org/tiny-GGUF:Q8_0@v2", "org/tiny-GGUF/tiny-Q8_0.gguf"])
def test_another_quantisation_in_any_capitals(puller: Puller, hub: FakeHub, reference: str) -> None:
    hub.add("org/tiny-GGUF", {"tiny-Q8_0.gguf": LARGE, "tiny-Q4_K_M.gguf": SMALL})
    puller.pull(reference)
    assert puller.models == {"chat/tiny-Q8_0.gguf": LARGE}


def test_a_projector_comes_along_unless_it_is_not_wanted(puller: Puller, hub: FakeHub) -> None:
    hub.add("org/vision", {"vision-Q4_K_M.gguf": SMALL, "mmproj-F16.gguf": PROJECTOR, "mmproj-F32.gguf": b"GGUF other"})
    result = puller.pull("org/vision")
    assert list(puller.models) == ["chat/mmproj-vision-Q4_K_M.gguf", "chat/vision-Q4_K_M.gguf"]
    assert [file["role"] for file in result["files"]] == [FileRole.MODEL, FileRole.PROJECTOR]


def test_without_a_projector(puller: Puller, hub: FakeHub) -> None:
    hub.add("org/vision", {"vision-Q4_K_M.gguf": SMALL, "mmproj-F16.gguf": PROJECTOR})
    puller.pull("org/vision", projector=False)
    assert list(puller.models) == ["chat/vision-Q4_K_M.gguf"]


def test_the_token_goes_to_the_hub_and_not_to_its_storage(puller: Puller, hub: FakeHub) -> None:
    hub.add("org/gated", {"m-Q4_K_M.gguf": SMALL}, token="hf_sesame")
    puller.environment["HF_TOKEN"] = "hf_sesame"
    puller.pull("org/gated")
    sent = {request.path: request.headers.get("authorization") for request in hub.server.requests}
    assert set(sent.values()) == {"Bearer hf_sesame"}, sent
    assert len(sent) == 2, "the listing and the file, and no telemetry"
    assert {request.headers.get("authorization") for request in hub.storage.requests} == {None}
    assert puller.models == {"chat/m-Q4_K_M.gguf": SMALL}


def test_a_gated_repository_says_what_to_do(puller: Puller, hub: FakeHub) -> None:
    hub.add("org/gated", {"m-Q4_K_M.gguf": SMALL}, token="hf_sesame")
    error = puller.pull("org/gated")
    assert error["code"] == "pull_failed"
    assert f"accept its terms at {hub.endpoint}/org/gated, and set HF_TOKEN" in error["message"]


@pytest.mark.parametrize("reference", ["org", "org/a b", "org/x:a:b", "../../x", "org/..", "/etc/passwd", "org/x@", ""])
def test_references_that_can_not_be_meant(puller: Puller, hub: FakeHub, reference: str) -> None:
    error = puller.pull(reference)
    assert error["code"] == "invalid_request"
    assert hub.server.requests == []


def test_a_repository_that_is_not_there(puller: Puller, hub: FakeHub) -> None:
    hub.server.routes["/api/models/org/none"] = status(404, X_Error_Code="RepoNotFound")
    assert "is not there, or is private" in puller.pull("org/none")["message"]


def test_a_private_mirror_is_trusted_but_not_where_it_redirects_to(puller: Puller, hub: FakeHub) -> None:
    hub.add("org/tiny", {"tiny-Q4_K_M.gguf": SMALL})
    error = puller.pull("org/tiny", storage_allowed=False)
    assert error["code"] == "address_refused"
    assert hub.storage.requests == []
    assert any(request.path.startswith("/org/tiny/resolve/") for request in hub.server.requests)


def fill_cache(directory: Path, files: dict[str, bytes]) -> None:
    """Lay files where the hub's own library keeps them."""
    root = directory / "hf" / "hub" / "models--org--tiny"
    for path, data in files.items():
        blob = root / "blobs" / sha256(data)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link = root / "snapshots" / COMMIT / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)


def test_what_lies_in_the_cache_is_not_fetched_again(puller: Puller, hub: FakeHub, tmp_path: Path) -> None:
    hub.add("org/tiny", {"tiny-Q4_K_M.gguf": SMALL})
    fill_cache(tmp_path, {"tiny-Q4_K_M.gguf": SMALL})
    puller.pull("org/tiny")
    assert puller.models == {"chat/tiny-Q4_K_M.gguf": SMALL}
    assert hub.storage.requests == []


@pytest.mark.parametrize("reason", ["HF_HUB_OFFLINE", "no network"])
def test_offline_the_cache_will_do(puller: Puller, hub: FakeHub, tmp_path: Path, reason: str) -> None:
    fill_cache(tmp_path, {"tiny-Q4_K_M.gguf": SMALL, "config.json": b"{}"})
    puller.environment |= (
        {"HF_HUB_OFFLINE": "1"} if reason == "HF_HUB_OFFLINE" else {"HF_ENDPOINT": "http://127.0.0.1:1"}
    )
    result = puller.pull("org/tiny")
    assert puller.models == {"chat/tiny-Q4_K_M.gguf": SMALL}
    assert result["files"][0]["verified"] is True, "the cache calls files by their hash"


def test_a_cache_that_went_bad_is_noticed(puller: Puller, hub: FakeHub, tmp_path: Path) -> None:
    fill_cache(tmp_path, {"tiny-Q4_K_M.gguf": SMALL})
    (tmp_path / "hf/hub/models--org--tiny/blobs" / sha256(SMALL)).write_bytes(SMALL[:-1] + b"?")
    puller.environment["HF_HUB_OFFLINE"] = "1"
    assert "was expected" in puller.pull("org/tiny")["message"]
    assert puller.models == {}


def test_offline_and_nothing_in_the_cache(puller: Puller, hub: FakeHub) -> None:
    puller.environment["HF_HUB_OFFLINE"] = "1"
    assert "the cache" in puller.pull("org/tiny")["message"]
    assert hub.server.requests == []


def test_what_the_hub_says_and_what_it_sends_must_agree(puller: Puller, hub: FakeHub) -> None:
    hub.add("org/tiny", {"tiny-Q4_K_M.gguf": SMALL})
    hub.storage.routes["/blob/org/tiny/tiny-Q4_K_M.gguf"] = good(SMALL[:-1] + b"?")
    assert "was expected; it was thrown away" in puller.pull("org/tiny")["message"]
    assert puller.models == {}
