"""A Hugging Face hub of a few files: the listing of a repository, and the files behind a redirect to a second host."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.models.fetch.kit import Answer, FileServer, Handler, Request, good, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """Files by path; those that end in .gguf are in LFS, as on the hub. ``gated`` ones want a token."""

    files: dict[str, bytes] = field(default_factory=dict)
    commit: str = COMMIT
    token: str | None = None


class FakeHub:
    """``storage`` is the host that files are served from, as the hub's own storage is another host."""

    def __init__(self, hub: FileServer, storage: FileServer) -> None:
        self.server, self.storage = hub, storage
        self.repositories: dict[str, Repository] = {}

    @property
    def endpoint(self) -> str:
        return self.server.origin

    def add(self, name: str, files: dict[str, bytes], **options: str) -> Repository:
        repository = self.repositories[name] = Repository(files, **options)
        listing = self._listing(name, repository)
        for revision in ("main", repository.commit, "v2"):
            self.server.routes[f"/api/models/{name}/revision/{revision}"] = listing
        self.server.routes[f"/api/models/{name}"] = listing
        for path, data in files.items():
            self.server.routes[f"/{name}/resolve/{repository.commit}/{path}"] = self._resolve(name, path, repository)
            self.storage.routes[f"/blob/{name}/{path}"] = good(data, f'"{hashlib.sha256(data).hexdigest()}"')
        return repository

    def _listing(self, name: str, repository: Repository) -> Answer:
        def answer(handler: Handler, request: Request) -> None:
            if self._refused(handler, request, repository):
                return
            siblings = [sibling(path, data) for path, data in repository.files.items()]
            send_json(handler, 200, {"id": name, "sha": repository.commit, "siblings": siblings})

        return answer

    def _resolve(self, name: str, path: str, repository: Repository) -> Answer:
        def answer(handler: Handler, request: Request) -> None:
            if not self._refused(handler, request, repository):
                handler.head(302, {"Location": f"{self.storage.origin}/blob/{name}/{path}", "Content-Length": "0"})

        return answer

    def _refused(self, handler: Handler, request: Request, repository: Repository) -> bool:
        if repository.token in (None, request.headers.get("authorization", "").removeprefix("Bearer ")):
            return False
        send_json(handler, 403, {"error": "gated"}, **{"X-Error-Code": "GatedRepo"})
        return True


def sibling(path: str, data: bytes) -> dict[str, object]:
    found: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
    if path.endswith(".gguf"):
        found["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
    return found


def send_json(handler: Handler, status: int, body: object, **headers: str) -> None:
    data = json.dumps(body).encode()
    handler.head(status, {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers})
    handler.wfile.write(data)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    with serving() as hub, serving() as storage:
        yield FakeHub(hub, storage)
