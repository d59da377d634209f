"""What the endpoints about the server itself say of themselves."""

from __future__ import annotations

from typing import Final

from localllm.contract.endpoint_doc import EndpointDoc, ResponseDoc
from localllm.contract.json_schema import FLAG, TEXT, TEXT_OR_NULL, listing, record

SERVER_TAG: Final = "server"

HEALTH: Final = EndpointDoc(
    summary="Whether the server is alive",
    description="Needs no API key; which models there are is told only to callers who may use them.",
    tag=SERVER_TAG,
    responses={
        200: ResponseDoc(
            "It is.",
            schema=record(
                {
                    "status": {"enum": ["ok", "draining"]},
                    "default_model": TEXT_OR_NULL,
                    "models": listing(TEXT),
                },
                {"safe_mode": listing(TEXT, "Models that run without what the build miscompiled."), "note": TEXT},
                title="Health",
            ),
        )
    },
)

READY: Final = EndpointDoc(
    summary="Whether it takes requests",
    description="503 until models that are to be preloaded are, and while it shuts down. Needs no API key.",
    tag=SERVER_TAG,
    responses={200: ResponseDoc("It does.", schema=record({"status": {"const": "ready"}}, title="Ready"))},
)

VERSION: Final = EndpointDoc(
    summary="Versions of the server, of Python and of the engines",
    tag=SERVER_TAG,
    responses={
        200: ResponseDoc(
            "The versions.",
            schema=record(
                {
                    "version": TEXT,
                    "python": TEXT,
                    "backends": {"type": "object", "additionalProperties": TEXT_OR_NULL},
                },
                title="Versions",
            ),
        )
    },
)

RELOAD: Final = EndpointDoc(
    summary="Read the configuration again",
    description="All of it is applied, or nothing where it is wrong. Some keys need a restart.",
    tag=SERVER_TAG,
    responses={
        200: ResponseDoc(
            "What changed, by dotted keys.",
            schema=record(
                {
                    "applied": listing(TEXT),
                    "needs_restart": listing(TEXT),
                    "unchanged": FLAG,
                    "warnings": listing(TEXT, "Models that can't be served."),
                },
                title="Reloaded",
            ),
        )
    },
    errors=(422,),
)
