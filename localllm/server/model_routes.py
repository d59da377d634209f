"""The endpoints about models: which there are and how they fare, and loading and letting go by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localllm.contract.errors import InvalidRequestError
from localllm.contract.model import USUAL_MODES, Mode, ModelKind, ModelSpec
from localllm.models.file_names import fold
from localllm.server import model_docs
from localllm.server.arriving_models import Arriving, ArrivingModels
from localllm.server.core_routes import json_response
from localllm.server.disconnect import race_disconnect
from localllm.server.json_body import read_json
from localllm.server.model_host import ModelHost, find_spec, states_by_id
from localllm.server.model_objects import model_list, model_object
from localllm.server.model_status import DOWNLOADING, arriving_object, n_loaded, status_object
from localllm.server.routes import RouteEntry

DRAIN_SECONDS = 30.0
"""Time that requests in flight get when a model is unloaded and the request says nothing else."""

MAX_DRAIN_SECONDS = 3600.0

_STATES = ("loaded", "unloaded", "queued", "loading", "ready", "draining", "failed", DOWNLOADING)


def model_routes(host: ModelHost) -> list[RouteEntry]:
    """Return the routes. They need an API key like all that are not public."""
    endpoints = ModelEndpoints(host)
    entries = [RouteEntry(Route("/models/list", endpoints.list_briefly), "models:brief", doc=model_docs.LIST_BRIEFLY)]
    by_name = {
        "models:load": ("/load", endpoints.load, "POST", model_docs.LOAD),
        "models:unload": ("/unload", endpoints.unload, "POST", model_docs.UNLOAD),
        "models": ("", endpoints.list, "GET", model_docs.LIST),
        "model": ("/{id:path}", endpoints.get, "GET", model_docs.GET),
    }
    for name, (path, handler, method, doc) in by_name.items():
        entries += [
            RouteEntry(Route(f"/v1/models{path}", handler, methods=[method]), name, doc=doc),
            RouteEntry(Route(f"/models{path}", handler, methods=[method]), f"{name} without /v1"),
        ]
    return entries


class ModelEndpoints:
    """The handlers with the models that they are about."""

    def __init__(self, host: ModelHost) -> None:
        self._host = host
        self._arriving: Callable[[], Sequence[Arriving]] = host.arriving if isinstance(host, ArrivingModels) else tuple

    async def list(self, request: Request) -> Response:
        """Answer OpenAI's list; ``?state=`` keeps those in one state, "loaded" being all that have a place.

        Models that are still being fetched come last: requests may name them already, and wait.
        """
        wanted = request.query_params.get("state")
        if wanted is not None and wanted not in _STATES:
            message = f"state must be one of {', '.join(_STATES)}, not {wanted[:40]!r}."
            raise InvalidRequestError(message, param="state")
        body = model_list(self._host)
        for model in body["data"]:
            model["status"] = self._status(model["id"])
        body["data"] += map(arriving_object, self._arriving())
        if wanted is not None:
            body["data"] = [model for model in body["data"] if _is_in(model, wanted)]
            kept = {model["id"] for model in body["data"]}
            body["models"] = [model for model in body["models"] if model["model"] in kept]
        return json_response(body)

    async def list_briefly(self, request: Request) -> Response:
        """Answer name, type and whether it is loaded, of each model: a bare list, as localLLM-api gave it.

        ``instances`` says by how many workers.
        """
        states = states_by_id(self._host)
        models = [(spec, states.get(spec.id)) for spec in self._host.list_specs()]
        brief = [
            {
                "name": spec.id,
                "type": spec.kind.value,
                "loaded": state is not None and state.info is not None,
                "instances": n_loaded(state),
            }
            for spec, state in models
        ]
        return json_response(brief)

    async def get(self, request: Request) -> Response:
        """Answer one model's object."""
        name = fold(request.path_params["id"].removesuffix(".gguf"))
        for one in self._arriving():
            if name in map(fold, (one.spec.id, *one.spec.aliases)):
                return json_response(arriving_object(one))
        return json_response(self._object(find_spec(self._host, request.path_params["id"])))

    async def load(self, request: Request) -> Response:
        """Load a model, and answer its object once it is ready. A client that leaves does not end the load."""
        body = await read_json(request)
        spec = self._spec(body)
        mode = _mode(body, spec)
        ttl_seconds = _number(body, "ttl_seconds", maximum=None)
        pinned = _flag(body, "pinned")
        await race_disconnect(request, self._host.load(spec.id, mode, ttl_seconds=ttl_seconds, pinned=pinned))
        return json_response({**self._object(spec), "success": True, "message": "Model loaded successfully"})

    async def unload(self, request: Request) -> Response:
        """Let a model go, in all modes unless one is named, and answer its object when it has gone."""
        body = await read_json(request)
        spec = self._spec(body)
        force = _flag(body, "force") or False
        deadline = _number(body, "deadline_seconds", maximum=MAX_DRAIN_SECONDS)
        if deadline is None:
            deadline = 0.0 if force else DRAIN_SECONDS
        named = "mode" in body or "type" in body
        loaded = [state.mode for state in self._host.status() if state.id == spec.id]
        found = False
        for mode in [_mode(body, spec)] if named else loaded:
            unloading = self._host.unload(spec.id, mode, deadline_seconds=deadline, force=force)
            found = await race_disconnect(request, unloading) or found
        message = "Model unloaded successfully" if found else "Model was not loaded"
        return json_response({**self._object(spec), "success": True, "message": message})

    def _spec(self, body: Mapping[str, Any]) -> ModelSpec:
        name = body.get("model")
        if not isinstance(name, str) or not name:
            message = f"model must be the name of a model, not {_kind_of(name)}."
            raise InvalidRequestError(message, param="model")
        return find_spec(self._host, name)

    def _object(self, spec: ModelSpec) -> dict[str, Any]:
        state = states_by_id(self._host).get(spec.id)
        return {**model_object(spec, state), "status": self._status(spec.id)}

    def _status(self, model_id: str) -> dict[str, Any]:
        states = [state for state in self._host.status() if state.id == model_id]
        return status_object(states_by_id(self._host).get(model_id), states)


def _is_in(model: Mapping[str, Any], wanted: str) -> bool:
    return bool(model["loaded"]) if wanted == "loaded" else model["state"] == wanted


def _mode(body: Mapping[str, Any], spec: ModelSpec) -> Mode:
    """Return what to load it for: what ``mode`` says, else what models of ``type`` do, else what it is made for."""
    mode, kind = body.get("mode"), body.get("type")
    try:
        if mode is not None:
            return Mode(mode)
        return USUAL_MODES[spec.kind if kind is None else ModelKind(kind)]
    except ValueError:
        name, values = ("mode", Mode) if mode is not None else ("type", ModelKind)
        message = f"{name} must be one of {', '.join(one.value for one in values)}."
        raise InvalidRequestError(message, param=name) from None


def _number(body: Mapping[str, Any], name: str, *, maximum: float | None) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = f"{name} must be a number of seconds, not {_kind_of(value)}."
        raise InvalidRequestError(message, param=name)
    if value < 0 or (maximum is not None and value > maximum):
        bounds = "at least 0" if maximum is None else f"from 0 to {maximum:g}"
        message = f"{name} must be {bounds}, not {value}."
        raise InvalidRequestError(message, param=name)
    return float(value)


def _flag(body: Mapping[str, Any], name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        message = f"{name} must be true or false, not {_kind_of(value)}."
        raise InvalidRequestError(message, param=name)
    return value


def _kind_of(value: object) -> str:
    return {type(None): "absent", str: "a string", dict: "an object", list: "a list", bool: "a flag"}.get(
        type(value), "a number"
    )
