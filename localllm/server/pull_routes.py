"""The endpoints that bring models onto the disk and take them off it: pull, with progress, and delete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localllm.config.schema import Config
from localllm.contract.errors import InvalidRequestError, ModelBusyError
from localllm.contract.fetch import PullProgress
from localllm.contract.model import ModelKind
from localllm.models.pulls import Pull, Pulls
from localllm.models.removal import plan_removal
from localllm.server import model_docs
from localllm.server.core_routes import json_response
from localllm.server.disconnect import race_disconnect
from localllm.server.errors import OperationNotAllowedError, PullNotFoundError, error_body
from localllm.server.json_body import read_json
from localllm.server.model_host import ModelHost, find_spec
from localllm.server.pulling import clients_are_known
from localllm.server.routes import RouteEntry
from localllm.server.sse import EventStream

_AT_REST = ("unloaded", "failed")
_FIELDS = frozenset({"source", "kind", "id", "stream", "background"})


def pull_routes(config: Config, host: ModelHost, pulls: Pulls) -> list[RouteEntry]:
    """Return the routes. They need an API key like all that are not public, and stand before those of all models."""
    endpoints = PullEndpoints(config, host, pulls)
    return [
        RouteEntry(Route("/v1/models/pull", endpoints.pull, methods=["POST"]), "models:pull", doc=model_docs.PULL),
        RouteEntry(Route("/v1/models/pulls", endpoints.list), "pulls", doc=model_docs.PULLS),
        RouteEntry(Route("/v1/models/pulls/{id}", endpoints.get), "pull", doc=model_docs.PULL_STATUS),
        RouteEntry(
            Route("/v1/models/pulls/{id}", endpoints.cancel, methods=["DELETE"]),
            "pull:cancel",
            doc=model_docs.PULL_CANCEL,
        ),
        RouteEntry(
            Route("/v1/models/{id:path}", endpoints.delete, methods=["DELETE"]), "model:delete", doc=model_docs.DELETE
        ),
    ]


class PullEndpoints:
    """The handlers with what they act on."""

    def __init__(self, config: Config, host: ModelHost, pulls: Pulls) -> None:
        self._config = config
        self._host = host
        self._pulls = pulls

    async def pull(self, request: Request) -> Response:
        """Fetch a model: as a stream of progress, as one answer at its end, or in the background.

        A client that leaves ends the pull after a while, unless somebody else waits for it or it is in the background.
        """
        self._require("models.allow_pull", self._config.models.allow_pull)
        wanted = _parse(await read_json(request))
        pull = self._pulls.start(
            wanted["source"], kind=wanted["kind"], model_id=wanted["id"], background=wanted["background"]
        )
        if wanted["stream"]:
            return EventStream(_events(pull), done=True)
        if wanted["background"]:
            return Response(orjson.dumps(pull_object(pull)), status_code=202, media_type="application/json")
        await race_disconnect(request, pull.wait())
        return json_response(pull_object(pull))

    async def list(self, request: Request) -> Response:
        """Answer all pulls that are known, the oldest first."""
        return json_response({"object": "list", "data": [pull_object(pull) for pull in self._pulls.list()]})

    async def get(self, request: Request) -> Response:
        """Answer one pull."""
        return json_response(pull_object(self._find(request)))

    async def cancel(self, request: Request) -> Response:
        """End a pull and answer how it ended. One that is over stays as it is."""
        self._require("models.allow_pull", self._config.models.allow_pull)
        pull = self._find(request)
        await self._pulls.cancel(pull)
        return json_response(pull_object(pull))

    async def delete(self, request: Request) -> Response:
        """Remove a model's files. A loaded model is refused, unless ``?force=true``: it is unloaded then."""
        self._require("models.allow_delete", self._config.models.allow_delete)
        spec = find_spec(self._host, request.path_params["id"])
        removal = await asyncio.to_thread(plan_removal, spec, self._config.models.directory.absolute())
        loaded = [state for state in self._host.status() if state.id == spec.id and state.state not in _AT_REST]
        if loaded and not _forced(request):
            message = f"Model {spec.id!r} is loaded; unload it first, or send ?force=true."
            raise ModelBusyError(message, detail={"in_flight": sum(state.in_flight for state in loaded)})
        for state in loaded:
            await self._host.unload(spec.id, state.mode, deadline_seconds=0.0, force=True)
        try:
            await asyncio.to_thread(removal.execute)
        except OSError as error:
            message = f"The files of {spec.id!r} can't be removed: {error.strerror or error}."
            raise InvalidRequestError(message, param="model") from None
        return json_response(
            {
                "id": spec.id,
                "object": "model",
                "deleted": True,
                "files": [path.name for path in removal.paths],
                "size": removal.size_bytes,
            }
        )

    def _require(self, key: str, allowed: bool) -> None:
        if not allowed:
            message = f"Clients may not do this here; whoever runs the server can set {key} = true."
            raise OperationNotAllowedError(message)
        if not clients_are_known(self._config):
            message = "This server is open to everybody, so that nobody may do this; set server.api_keys."
            raise OperationNotAllowedError(message)

    def _find(self, request: Request) -> Pull:
        pull_id = request.path_params["id"]
        pull = self._pulls.get(pull_id)
        if pull is None:
            message = f"There is no pull {pull_id[:40]!r}; GET /v1/models/pulls lists them."
            raise PullNotFoundError(message)
        return pull


def pull_object(pull: Pull) -> dict[str, Any]:
    """Return one pull as it is shown; what a final one brought, or what ended it, is added."""
    body = {"object": "model.pull", "source": pull.job.source, **progress_event(pull, pull.progress)}
    if pull.result is not None:
        result = pull.result
        files = [
            {"name": Path(file.path).name, "size": file.size_bytes, "sha256": file.sha256, "verified": file.verified}
            for file in result.files
        ]
        body |= {"kind": result.kind.value, "fresh": result.fresh, "verified": result.verified, "files": files}
    if pull.error is not None:
        body |= error_body(pull.error)
    return body


def progress_event(pull: Pull, progress: PullProgress) -> dict[str, Any]:
    """Return one moment of a pull, in Ollama's words where it has them. Sizes in bytes, speed in bytes per second."""
    return {
        "id": pull.id,
        "status": progress.status.value,
        "model": progress.model_id,
        "file": progress.file,
        "completed": progress.completed_bytes,
        "total": progress.total_bytes,
        "percent": progress.percent,
        "speed": None if progress.speed is None else round(progress.speed),
        "eta_seconds": progress.eta_seconds,
    }


async def _events(pull: Pull) -> AsyncIterator[Mapping[str, Any]]:
    """Yield the progress, and at the end the pull itself. Raises the error that ended it."""
    with pull.watching():
        async for progress in pull.follow():
            if not progress.status.is_final:
                yield progress_event(pull, progress)
    pull.outcome()
    yield pull_object(pull)


def _parse(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked fields. Raises ``InvalidRequestError`` naming the one at fault."""
    for name in body:
        if name not in _FIELDS:
            message = f"Unknown field {name[:40]!r}; a pull has {', '.join(sorted(_FIELDS))}."
            raise InvalidRequestError(message, param=name[:40])
    source, model_id, kind = body.get("source"), body.get("id"), body.get("kind")
    if not isinstance(source, str) or not source:
        message = 'source must be a text such as "hf:org/repo:Q4_K_M".'
        raise InvalidRequestError(message, param="source")
    if model_id is not None and not isinstance(model_id, str):
        message = "id must be a text: what the model is to be called."
        raise InvalidRequestError(message, param="id")
    try:
        kind = None if kind is None else ModelKind(kind)
    except ValueError:
        message = f"kind must be one of {', '.join(one.value for one in ModelKind)}."
        raise InvalidRequestError(message, param="kind") from None
    flags = {name: _flag(body, name) for name in ("stream", "background")}
    return {"source": source, "id": model_id, "kind": kind, **flags}


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        message = f"{name} must be true or false."
        raise InvalidRequestError(message, param=name)
    return bool(value)


def _forced(request: Request) -> bool:
    value = request.query_params.get("force", "false")
    if value not in ("true", "false"):
        message = "force must be true or false."
        raise InvalidRequestError(message, param="force")
    return value == "true"
