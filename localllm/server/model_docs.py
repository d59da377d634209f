"""What the endpoints about models say of themselves."""

from __future__ import annotations

from typing import Any, Final

from localllm.contract.endpoint_doc import EndpointDoc, ParameterDoc, ResponseDoc
from localllm.contract.fetch import PullStatus
from localllm.contract.json_schema import COUNT, FLAG, OBJECT, TEXT, TEXT_OR_NULL, UNIX_TIME, listing, record
from localllm.contract.model import Mode, ModelKind

STATES: Final = ("loaded", "unloaded", "queued", "loading", "ready", "draining", "failed", "downloading")
_TAG: Final = "models"

_KINDS: Final = [kind.value for kind in ModelKind]
_MODES: Final = [mode.value for mode in Mode]
_SECONDS: Final = {"type": ["number", "null"], "description": "Seconds; null: no end, or not known."}
_COUNT_OR_NULL: Final = {"type": ["integer", "null"]}
_NAME: Final = {"type": "string", "minLength": 1, "description": "A model's id or alias."}
_MODE: Final = {"enum": [*_MODES, None], "description": "What it is loaded for; absent: what it is made for."}
_TYPE: Final = {"enum": [*_KINDS, None], "description": "The same, by the kind of model that does such work."}

_MEMORY: Final = {
    "anyOf": [
        record(
            {
                "total_bytes": COUNT,
                "estimated_bytes": _COUNT_OR_NULL,
                "measured": {
                    "type": ["object", "null"],
                    "properties": {"weights_bytes": COUNT, "cache_bytes": COUNT, "compute_bytes": COUNT},
                },
            }
        ),
        {"type": "null"},
    ]
}
_VALUE: Final = {"enum": ["unloaded", "loading", "loaded", "draining", "failed", "downloading"]}
_INSTANCE: Final = record(
    {
        "number": COUNT,
        "value": _VALUE,
        "in_flight": COUNT,
        "waiting": COUNT,
        "expires_in_seconds": _SECONDS,
        "loaded_for_seconds": _SECONDS,
        "worker_pid": _COUNT_OR_NULL,
        "memory_bytes": _COUNT_OR_NULL,
        "error": TEXT_OR_NULL,
    }
)
_STATE: Final = {
    "value": _VALUE,
    "mode": {"enum": _MODES},
    "in_flight": COUNT,
    "waiting": COUNT,
    "pinned": FLAG,
    "ttl_seconds": _SECONDS,
    "expires_in_seconds": _SECONDS,
    "loaded_for_seconds": _SECONDS,
    "worker_pid": _COUNT_OR_NULL,
    "safe_mode": FLAG,
    "memory": _MEMORY,
    "error": TEXT_OR_NULL,
    "instances": listing(_INSTANCE, "The workers behind the name."),
}
_PROGRESS: Final[dict[str, Any]] = {
    "id": TEXT,
    "status": {"enum": [status.value for status in PullStatus]},
    "model": TEXT_OR_NULL,
    "file": TEXT_OR_NULL,
    "completed": COUNT,
    "total": _COUNT_OR_NULL,
    "percent": {"type": ["number", "null"]},
    "speed": {"type": ["number", "null"], "description": "Bytes per second."},
    "eta_seconds": {"type": ["number", "null"]},
}
_STATUS: Final = record({"value": _VALUE, "modes": listing(record(_STATE))}, {**_STATE, "progress": record(_PROGRESS)})

_MODEL_FIELDS: Final = {
    "id": TEXT,
    "object": {"const": "model"},
    "created": UNIX_TIME,
    "owned_by": TEXT,
    "root": {"type": "string", "description": "The model's file."},
    "name": TEXT,
    "type": {"enum": _KINDS},
    "aliases": listing(TEXT),
    "tags": listing(TEXT),
    "capabilities": listing({"enum": ["completion", "chat", "tools", "reasoning", "embedding", "rerank"]}),
    "loaded": FLAG,
    "state": {"enum": list(STATES[1:])},
    "pinned": FLAG,
    "ttl_seconds": _SECONDS,
    "defaults": listing(TEXT, "Fields that the configuration fills in."),
    "forced": listing(TEXT, "Fields that the configuration decides."),
    "max_model_len": _COUNT_OR_NULL,
    "meta": {"type": "object", "description": "Facts from the file's header, and what loading brought to light."},
    "status": _STATUS,
}
_MODEL: Final = record(_MODEL_FIELDS, title="Model")
_DONE: Final = record({**_MODEL_FIELDS, "success": {"const": True}, "message": TEXT}, title="ModelDone")
_OLLAMA_MODEL: Final = record(
    {
        "name": TEXT,
        "model": TEXT,
        "modified_at": TEXT,
        "size": COUNT,
        "digest": TEXT,
        "type": TEXT,
        "description": TEXT,
        "tags": listing(TEXT),
        "capabilities": listing(TEXT),
        "parameters": TEXT,
        "details": OBJECT,
    }
)
_ID: Final = ParameterDoc(
    "id", "path", "A model's id or alias; it may have slashes in it.", {"type": "string", "minLength": 1}
)

LIST: Final = EndpointDoc(
    summary="The models that there are",
    description="OpenAI's list, the default model first, with kind, state, limits and facts of each.",
    tag=_TAG,
    parameters=(
        ParameterDoc(
            "state", "query", "Only models in this state; loaded: all that have a place.", {"enum": [*STATES]}
        ),
    ),
    responses={
        200: ResponseDoc(
            "The models, and beside them the list that Ollama's clients read.",
            schema=record(
                {
                    "object": {"const": "list"},
                    "data": listing({"$ref": "#/$defs/Model"}),
                    "models": listing(_OLLAMA_MODEL),
                },
                title="Models",
            )
            | {"$defs": {"Model": _MODEL}},
        )
    },
)

LIST_BRIEFLY: Final = EndpointDoc(
    summary="The models in brief",
    description="As clients of localLLM-api ask.",
    tag=_TAG,
    responses={
        200: ResponseDoc(
            "The models.",
            schema=listing(record({"name": TEXT, "type": {"enum": _KINDS}, "loaded": FLAG, "instances": COUNT})),
        )
    },
)

GET: Final = EndpointDoc(
    summary="One model",
    tag=_TAG,
    parameters=(_ID,),
    responses={200: ResponseDoc("The model.", schema=_MODEL)},
    errors=(404,),
)

LOAD: Final = EndpointDoc(
    summary="Load a model",
    description="Answers once it is ready. Requests load models by themselves; this is for doing it before.",
    tag=_TAG,
    request=record(
        {"model": _NAME},
        {
            "mode": _MODE,
            "type": _TYPE,
            "ttl_seconds": {
                "type": ["number", "null"],
                "minimum": 0,
                "description": "How long it stays unused; 0: for ever.",
            },
            "pinned": {"type": ["boolean", "null"], "description": "Keep it when others need room."},
        },
        title="LoadModel",
    ),
    responses={200: ResponseDoc("The model, which is loaded now.", schema=_DONE)},
    errors=(404, 409, 422, 502),
)

UNLOAD: Final = EndpointDoc(
    summary="Let a model go",
    description="Waits for the requests that use it, up to a deadline.",
    tag=_TAG,
    request=record(
        {"model": _NAME},
        {
            "mode": {"enum": [*_MODES, None], "description": "Absent: all that it is loaded for."},
            "type": _TYPE,
            "force": {
                "type": ["boolean", "null"],
                "description": "End what is left at the deadline, which is at once.",
            },
            "deadline_seconds": {"type": ["number", "null"], "minimum": 0, "maximum": 3600},
        },
        title="UnloadModel",
    ),
    responses={200: ResponseDoc("The model, which has gone now.", schema=_DONE)},
    errors=(404, 409),
)

DELETE: Final = EndpointDoc(
    summary="Remove a model's files",
    description="Refused (403) unless `models.allow_delete` is set.",
    tag=_TAG,
    parameters=(_ID, ParameterDoc("force", "query", "Unload it first, if it is loaded.", {"type": "boolean"})),
    responses={
        200: ResponseDoc(
            "What was removed.",
            schema=record(
                {
                    "id": TEXT,
                    "object": {"const": "model"},
                    "deleted": {"const": True},
                    "files": listing(TEXT),
                    "size": COUNT,
                },
                title="ModelDeleted",
            ),
        )
    },
    errors=(404, 409),
)

_PULL_FIELDS: Final[dict[str, Any]] = {
    "kind": {"enum": _KINDS},
    "fresh": FLAG,
    "verified": FLAG,
    "files": listing(record({"name": TEXT, "size": COUNT, "sha256": TEXT_OR_NULL, "verified": FLAG})),
    "error": OBJECT,
}
_PULL: Final = record({"object": {"const": "model.pull"}, "source": TEXT, **_PROGRESS}, _PULL_FIELDS, title="Pull")
_PULL_ID: Final = ParameterDoc("id", "path", "A pull's id.")

PULL: Final = EndpointDoc(
    summary="Fetch a model",
    description="Refused (403) unless `models.allow_pull` is set, and to callers beyond this machine without API keys.",
    tag=_TAG,
    request=record(
        {"source": {"type": "string", "minLength": 1, "description": "Such as hf:org/repo:Q4_K_M, or a known name."}},
        {
            "kind": {"enum": [*_KINDS, None]},
            "id": {"type": ["string", "null"], "description": "What the model is to be called."},
            "stream": {"type": ["boolean", "null"], "description": "Send the progress as server-sent events."},
            "background": {"type": ["boolean", "null"], "description": "Answer at once."},
        },
        title="PullModel",
    )
    | {"additionalProperties": False},
    responses={
        200: ResponseDoc(
            "The pull at its end; with `stream` its progress, the last event being `[DONE]`.",
            schema=_PULL,
            media=("application/json", "text/event-stream"),
            events=record(_PROGRESS, {"object": TEXT, "source": TEXT, **_PULL_FIELDS}, title="PullEvent"),
        ),
        202: ResponseDoc("The pull as it has just begun.", schema=_PULL),
    },
    errors=(409, 422, 502, 507),
)

PULLS: Final = EndpointDoc(
    summary="All pulls, the oldest first",
    tag=_TAG,
    responses={
        200: ResponseDoc(
            "The pulls.",
            schema=record({"object": {"const": "list"}, "data": listing({"$ref": "#/$defs/Pull"})}, title="Pulls")
            | {"$defs": {"Pull": _PULL}},
        )
    },
)

PULL_STATUS: Final = EndpointDoc(
    summary="One pull",
    tag=_TAG,
    parameters=(_PULL_ID,),
    responses={200: ResponseDoc("The pull.", schema=_PULL)},
    errors=(404,),
)

PULL_CANCEL: Final = EndpointDoc(
    summary="End a pull",
    description="One that is over stays as it is.",
    tag=_TAG,
    parameters=(_PULL_ID,),
    responses={200: ResponseDoc("How it ended.", schema=_PULL)},
    errors=(404,),
)
